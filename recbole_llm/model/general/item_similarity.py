"""What the closed-form general models share: a user's row of interactions times an item-item matrix."""

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor


def keep_largest(weights: np.ndarray, k: int) -> np.ndarray:
    """The k largest entries of each column, zeros elsewhere.

    Args:
        weights: [N, N] float; it is changed in place.
        k: entries kept of a column; 0 keeps all.
    Returns:
        ``weights``.
    """
    if 0 < k < len(weights):
        small = np.argpartition(weights, len(weights) - k, axis=0)[: len(weights) - k]
        np.put_along_axis(weights, small, 0.0, axis=0)
    return weights


class ItemSimilarity(GeneralRecommender):
    r"""Score :math:`s(u, j) = \sum_i X_{ui} S_{ij}` with a matrix S that is solved when the model is built.

    A subclass sets ``item_similarity`` in its constructor. The two attributes are called as in RecBole's EASE, so that
    interactions that become known after training are folded in as there: X is replaced, S stays.

    Attributes:
        interaction_matrix: X, the training interactions as ones. scipy CSR [U, N] float32.
        item_similarity: S, row and column 0 = [PAD]. [N, N] float32.

    Shapes: B batch, U n_users, N n_items.
    """

    type = ModelType.TRADITIONAL
    input_type = InputType.POINTWISE

    item_similarity: np.ndarray

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.interaction_matrix = _ones(dataset.inter_matrix(form="csr"))

    def known_rows(self, users: Tensor) -> sp.csr_matrix:
        """Rows of X, a repeated interaction counting once. [B] int64 -> [B, N] float32."""
        return _ones(self.interaction_matrix[users.cpu().numpy()])

    def score_rows(self, rows: sp.csr_matrix) -> np.ndarray:
        """Scores of all items for rows of X. [B, N] -> [B, N] float32."""
        return rows @ self.item_similarity

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items. [B, N] float32."""
        scores = self.score_rows(self.known_rows(interaction[self.USER_ID]))
        return torch.from_numpy(scores).to(self.device)

    def predict(self, interaction) -> Tensor:
        """Scores of the given (user, item) pairs. [B] float32."""
        items = interaction[self.ITEM_ID].to(self.device)
        return self.full_sort_predict(interaction).gather(1, items[:, None])[:, 0]


def _ones(matrix: sp.csr_matrix) -> sp.csr_matrix:
    matrix = matrix.astype(np.float32)  # a copy: the dataset's own matrix stays
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
