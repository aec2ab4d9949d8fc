"""ContentKNN: items whose texts are like those of the items that a user knows."""

import numpy as np
import scipy.sparse as sp

from recbole_llm.model.content import joined_features
from recbole_llm.model.general.item_similarity import ItemSimilarity, keep_largest


class ContentKNN(ItemSimilarity):
    r"""Score :math:`s(u, j) = \cos(\sum_i X_{ui} t_i,\; t_j)`, with t_i the features of item i, joined and whitened.

    The profile-and-cosine recommender of Lops et al. 2011, https://doi.org/10.1007/978-0-387-85820-3_3. As t has length
    1, the cosine is :math:`\sum_i X_{ui}\, t_i^\top t_j` over the length of the profile; i = j is left out, and with
    ``k`` the sum is over the k items alone that are nearest to j. It learns nothing from other users, so items that
    nobody used are scored like all others. Texts are centred on the catalogue: an item without text scores 0, as an
    average one would, and does not count in a profile. Closed form.
    Config: ``k``, ``item_features``, ``whiten``, ``text_dim``.
    Shapes: B batch, N n_items (row 0 = [PAD]), F' text_dim.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        text, _ = joined_features(dataset, config["item_features"], config["whiten"], config["text_dim"])
        self.text = text.numpy()  # [N, F'], zero where there is none
        similarity = self.text @ self.text.T  # [N, N]
        np.fill_diagonal(similarity, 0.0)  # an item does not vote for itself: with k it would take a place
        self.item_similarity = keep_largest(similarity, config["k"])

    def score_rows(self, rows: sp.csr_matrix) -> np.ndarray:
        """Scores of all items for rows of X. [B, N] -> [B, N] float32."""
        length = np.linalg.norm(rows @ self.text, axis=1, keepdims=True)  # [B, 1] of the profiles
        return super().score_rows(rows) / np.maximum(length, 1e-12)
