"""Standardised EASE plus standardised Markov: the strongest cheap baseline."""

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_llm.model.layers import standardised
from recbole_llm.model.sequential.markov import Markov


def weights_of_gram(gram: np.ndarray, reg_weight: float) -> np.ndarray:
    r"""Item-item weights of EASE: :math:`B_{ij} = -P_{ij} / P_{jj}`,
    :math:`P = (G + \lambda I)^{-1}`, diagonal 0.

    Steck 2019, https://arxiv.org/abs/1905.03375, eq. 8.

    Args:
        gram: G, for EASE :math:`X^\top X`; it is overwritten. [N, N] float64.
        reg_weight: lambda, > 0.
    Returns:
        [N, N] float32.
    """
    gram[np.diag_indices(len(gram))] += reg_weight
    precision = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
    weights = -precision / np.diag(precision)
    np.fill_diagonal(weights, 0.0)
    return weights.astype(np.float32)


def ease_weights(users: np.ndarray, items: np.ndarray, n_items: int, reg_weight: float) -> np.ndarray:
    r"""Weights of EASE (see :func:`weights_of_gram`) from interactions, a repeated one counting once.

    Args:
        users, items: interactions, ids. [n] int64 each.
        n_items: N, row 0 = [PAD].
        reg_weight: lambda, > 0.
    Returns:
        [N, N] float32.
    """
    x = sp.csr_matrix((np.ones(len(items)), (users, items)), shape=(users.max() + 1, n_items))
    x.data[:] = 1.0
    return weights_of_gram((x.T @ x).toarray(), reg_weight)


class EASEMarkov(Markov):
    r"""Score :math:`w\, z(s_{EASE}) + (1 - w)\, z(s_{Markov})`, z = standardisation over a user's scores of all items.

    The history given as ``item_id_list`` is the user's row for EASE, so MAX_ITEM_LIST_LENGTH should hold whole
    histories. Closed form. Config: ``ease_weight`` w in [0, 1], ``reg_weight``, and those of Markov.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.ease_weight = config["ease_weight"]
        inter = dataset.inter_feat
        users, items = inter[dataset.uid_field].numpy(), inter[dataset.iid_field].numpy()
        weights = ease_weights(users, items, self.n_items, config["reg_weight"])
        self.register_buffer("similarity", torch.from_numpy(weights), persistent=False)

    def full_sort_predict(self, interaction) -> Tensor:
        """Scores of all items. [B, N] float32."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        item_seq = item_seq * (torch.arange(item_seq.shape[1], device=item_seq.device) < lengths[:, None])
        rows = torch.zeros(len(item_seq), self.n_items, device=item_seq.device).scatter_(1, item_seq, 1.0)
        rows[:, 0] = 0.0
        markov = super().full_sort_predict(interaction)
        return self.ease_weight * standardised(rows @ self.similarity) + (1 - self.ease_weight) * standardised(markov)
