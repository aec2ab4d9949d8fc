"""Decayed Markov chain: what tends to follow what, within a window."""

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_llm.errors import ConfigError


def transitions(users: np.ndarray, items: np.ndarray, n_items: int, window: int, decay: float) -> sp.csr_matrix:
    r"""Decayed counts of ordered pairs: :math:`T_{ij} = \sum_{g=1}^{window} decay^{g-1} \#(i \to j, gap = g)`.

    Args:
        users, items: interactions in time order, ids. [n] int64 each.
        n_items: N, row 0 = [PAD].
        window: largest gap that counts, >= 1.
        decay: weight lost by each step of the gap, 0 < decay <= 1.
    Returns:
        [N, N] float64.
    """
    order = np.argsort(users, kind="stable")  # users together, time order kept inside
    users, items = users[order], items[order]
    total = sp.csr_matrix((n_items, n_items))
    for gap in range(1, min(window, len(items) - 1) + 1):
        same = users[gap:] == users[:-gap]
        rows, columns = items[:-gap][same], items[gap:][same]
        weight = np.full(len(rows), decay ** (gap - 1))
        total = total + sp.csr_matrix((weight, (rows, columns)), shape=(n_items, n_items))
    return total


def normalise(counts: sp.csr_matrix, items: np.ndarray, norm: str) -> np.ndarray:
    """Counts tamed by popularity: ``row`` (rows sum to 1), ``cosine`` (by the roots of both items' counts), ``none``.

    Args:
        counts: [N, N]; items: the interactions' item ids. [n] int64.
    Returns:
        [N, N] float32.
    Raises:
        ConfigError: on another norm.
    """
    n_items = counts.shape[0]
    if norm == "row":
        counts = sp.diags(1.0 / np.maximum(np.asarray(counts.sum(1)).ravel(), 1e-9)) @ counts
    elif norm == "cosine":
        scale = sp.diags(1.0 / np.sqrt(np.maximum(np.bincount(items, minlength=n_items), 1)))
        counts = scale @ counts @ scale
    elif norm != "none":
        raise ConfigError(f"markov_norm is '{norm}'; choose row, cosine or none")
    return counts.toarray().astype(np.float32)


def history_weights(item_seq: Tensor, item_seq_len: Tensor, n_items: int, window: int, decay: float) -> Tensor:
    """Each item's weight in a history: decay^p for the p-th last item, p < window. [B, L] -> [B, N] float32."""
    steps_back = item_seq_len[:, None] - 1 - torch.arange(item_seq.shape[1], device=item_seq.device)
    weight = torch.where(
        (steps_back >= 0) & (steps_back < window), float(decay) ** steps_back.clamp(min=0).float(), 0.0
    )
    out = torch.zeros(len(item_seq), n_items, device=item_seq.device)
    return out.scatter_add_(1, item_seq, weight * (item_seq > 0))


class Markov(SequentialRecommender):
    r"""Score :math:`s(u, j) = \sum_p decay^p\, \hat T_{i_p j}` over the user's last ``window`` items.

    A first-order chain in the sense of Rendle et al. 2010 (FPMC, https://doi.org/10.1145/1772690.1772773) without the
    factorisation: counts of all pairs within the window, decayed by their distance. Closed form.
    Config: ``markov_decay``, ``markov_window``, ``markov_norm`` (row: by the row's sum; cosine: by the square roots of
    both items' counts; none).
    Shapes: B batch, L max_seq_length, N n_items (row 0 = [PAD]).
    """

    input_type = InputType.POINTWISE

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.window, self.decay = config["markov_window"], config["markov_decay"]
        inter = dataset.inter_feat
        users, items = inter[dataset.uid_field].numpy(), inter[dataset.iid_field].numpy()
        counts = transitions(users, items, self.n_items, self.window, self.decay)
        transition = torch.from_numpy(normalise(counts, items, config["markov_norm"]))
        self.register_buffer("transition", transition, persistent=False)

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items. [B, N] float32."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return history_weights(item_seq, lengths, self.n_items, self.window, self.decay) @ self.transition

    def predict(self, interaction) -> Tensor:
        """Scores of the given (history, item) pairs. [B] float32."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None])[:, 0]
