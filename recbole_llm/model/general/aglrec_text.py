"""The texts of AGLRec: of items and users, their fusion with identities, vectors of items without interactions."""

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import joined_features, joined_forms
from recbole_llm.model.layers import whiten

_LENGTHS = 512  # fitted vectors, at most, whose mean length is taken
_BLOCK = 256  # rows in float64 at a time: to build the path must not take more memory than all else
_FITTED = 8192  # items, at most, that a cold item is compared with: their kernel is a dense matrix


def item_texts(config, dataset) -> tuple[Tensor, Tensor | None, Tensor]:
    """Joined features of the items, which cold items are scored by in another form than the one that is fused.

    Returns:
        whitened rows [N, F] float32; rows of the ``cold_path`` [N, F'] float32, None without it; which items have any
        [N] bool.
    Raises:
        ConfigError: when nothing names a feature.
    """
    names, forms = config["item_features"], [(config["whiten"], config["text_dim"])]
    if not names:
        raise ConfigError(
            "AGLRec reads texts of items: set item_features to features of the dataset, or train LightGCN instead"
        )
    if config["cold_path"]:
        forms.append(("rotate", config["cold_dim"]))
    rows, present = joined_forms(dataset, names, forms)
    return rows[0], rows[1] if config["cold_path"] else None, present


def user_text(config, dataset, text: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Texts of users from training rows alone: rows of length 1 [U, F] float32, which users have any [U] bool.

    ``user_features`` where they are named (made from the training rows of this split, see data/derived.py), else the
    mean of the user's training reviews (``review_features``), else of his training items' texts. Means are weighted by
    the rating of the interaction under ``user_text_weight: rating``; a user whose ratings are all the lowest weighs
    them alike.

    Args:
        text: rows of the items and which of them exist, of :func:`item_texts`.
    """
    if config["user_features"]:
        return joined_features(dataset, config["user_features"], config["whiten"], config["text_dim"])
    inter = dataset.inter_feat
    users = inter[dataset.uid_field].long()
    if config["review_features"]:
        rows, present = joined_features(dataset, config["review_features"], config["whiten"], config["text_dim"])
        spoken = inter["review_id"].long()  # [n] row of each interaction
    else:
        rows, present = text
        spoken = inter[dataset.iid_field].long()
    weight = _weights(config, dataset, users, present[spoken])
    total = weighted_sums(users, spoken, weight, rows, dataset.user_num)
    known = torch.zeros(dataset.user_num).index_add_(0, users, weight) > 0
    return F.normalize(total, dim=-1), known


def weighted_sums(users: Tensor, ids: Tensor, weight: Tensor, rows: Tensor, n_users: int) -> Tensor:
    """Sum of ``weight * rows[ids]`` by user, without a row for each interaction in memory.

    Args:
        users, ids: [n] int64. weight: [n] float32. rows: [N, F] float32.
    Returns:
        [n_users, F] float32.
    """
    x = sp.csr_matrix((weight.numpy(), (users.numpy(), ids.numpy())), shape=(n_users, len(rows)))
    return torch.from_numpy(x @ rows.numpy())


def _weights(config, dataset, users: Tensor, present: Tensor) -> Tensor:
    """Weight of each training interaction in its user's text, 0 without a text. [n] float32.

    A weight is the rating as the dataset holds it; interactions without one weigh alike.
    """
    kind, field = config["user_text_weight"], config["RATING_FIELD"]
    if kind not in ("rating", "none"):
        raise ConfigError(f"user_text_weight is '{kind}'; choose rating or none")
    inter = dataset.inter_feat
    if kind == "none" or field not in inter:
        return present.float()
    weight = inter[field].float() * present
    total = torch.zeros(dataset.user_num).index_add_(0, users, weight)
    return torch.where(total[users] > 0, weight, present.float())


def principal_rows(rows: Tensor, present: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` principal directions of texts, padded with zeros where there are fewer. [N, width] float32."""
    found = torch.from_numpy(whiten(rows.numpy(), present.numpy(), "pca", width))
    return F.pad(found, (0, width - found.shape[1])), present


class Fusion(nn.Module):
    """Identity embeddings with the projected texts added or appended; see AGLRec for what each starts from.

    Args:
        text: frozen rows [n, F] float32 and which of them exist [n] bool; None: no texts, so that ``sum`` changes
            nothing and ``concat`` mixes the identity alone.
        mode: "sum" | "concat". width: D. fusion_dim: width of the projected text; None: D, and in ``sum`` one matrix.
    """

    def __init__(self, text: tuple[Tensor, Tensor] | None, mode: str, width: int, fusion_dim: int | None) -> None:
        super().__init__()
        self.project = self.mix = self.missing = None
        out = width if mode == "sum" else fusion_dim or width
        if mode == "concat":
            self.mix = nn.Linear(width + (out if text else 0), width, bias=False)
            with torch.no_grad():
                self.mix.weight.zero_()[:, :width].fill_diagonal_(1.0)
        if text is None:
            return
        rows, present = text
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("present", present, persistent=False)
        inner = nn.Linear(rows.shape[1], fusion_dim or out, bias=False)
        if mode == "sum":
            last = nn.Linear(fusion_dim, width, bias=False) if fusion_dim else inner
            nn.init.zeros_(last.weight)
            inner = nn.Sequential(inner, last) if fusion_dim else inner
        self.project = inner
        if not present[1:].all():  # what stands for a text that is not there; elsewhere it would never be trained
            self.missing = nn.Parameter(torch.zeros(out))

    def forward(self, identities: Tensor) -> Tensor:
        """identities: [n, D] -> [n, D]."""
        parts = [identities]
        if self.project is not None:
            text = self.project(self.rows)
            parts.append(text if self.missing is None else torch.where(self.present[:, None], text, self.missing))
        return sum(parts) if self.mix is None else self.mix(torch.cat(parts, 1))


class ContentPath(nn.Module):
    r"""Vectors of items that no training interaction uses, from their texts alone.

    Kernel ridge regression (Saunders et al., Ridge regression learning algorithm in dual variables, ICML 1998) from
    text to the model's own vectors :math:`\hat h_i` (of length 1), in closed form and without a parameter:
    :math:`c = k(t, T)\,(k(T, T) + \lambda I)^{-1} Y`, :math:`k(s, t) = \exp(-\gamma \lVert s - t \rVert^2)`, T the
    texts of the items with interactions, :math:`Y_i = \hat h_i \log(1 + n_i)` with :math:`n_i` their number: what text
    tells of an item's use the factors of matrix factorisation. All :math:`c` are divided by the mean length of the
    fitted ones and multiplied by ``scale``, so that cold and other items can be ranked together: how often new items
    are wanted is a fact about the data that training interactions cannot tell.

    Y alone changes in training, so the matrix before it is kept for the cold items, and for some of the fitted ones,
    whose mean length stands for that of all. Of many items the most used are fitted.

    Args:
        rows: frozen texts of length 1, unwhitened: ridge regression shrinks least the directions in which texts vary
            most [N, F] float32. present: which exist [N] bool. counts: training interactions [N] int64.
        reg_weight: lambda, > 0. gamma: of the kernel, > 0; the smaller, the more it is like a linear regression.
        scale: mean length of cold items' vectors, where those of the others have length 1, > 0.
    """

    def __init__(
        self, rows: Tensor, present: Tensor, counts: Tensor, reg_weight: float, gamma: float, scale: float
    ) -> None:
        super().__init__()
        for name, value in (("reg_weight", reg_weight), ("gamma", gamma), ("scale", scale)):
            if value <= 0:
                raise ConfigError(f"cold_{name} is {value}; it must be above 0")
        self.scale = scale
        warm = counts > 0
        cold, known = present & ~warm, present & warm
        cold[0] = False
        if int(known.sum()) > _FITTED:
            used = torch.where(known, counts, -1).argsort(descending=True, stable=True)[:_FITTED]
            known = torch.zeros_like(known).index_fill_(0, used, True)
        self.n_cold = int(cold.sum()) if known.any() else 0
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("cold", cold, persistent=False)
        if not self.n_cold:
            return
        smoother = _smoother(rows[known].numpy(), rows[cold].numpy(), reg_weight, gamma)
        self.register_buffer("smoother", torch.from_numpy(smoother), persistent=False)  # [n_cold + some, n]
        self.register_buffer("weight", torch.log1p(counts[known].float())[:, None], persistent=False)  # [n, 1]

    def forward(self, items: Tensor) -> Tensor:
        """Item vectors of length 1 [N, D] -> the same, those of cold items with a text by that text. [N, D] float32."""
        if not self.n_cold:
            return items
        predicted = self.smoother @ (items[self.known] * self.weight)  # [n_cold + some, D]
        cold, fitted = predicted[: self.n_cold], predicted[self.n_cold :]
        items = items.clone()
        items[self.cold] = cold * (self.scale / fitted.norm(dim=1).mean().clamp(min=1e-12))
        return items


def _smoother(texts: np.ndarray, cold: np.ndarray, reg_weight: float, gamma: float) -> np.ndarray:
    """Weight of each fitted item in the vector of each cold one, and of some of the fitted ones.

    Args:
        texts: of the fitted items [n, F] float32. cold: [n_cold, F].
    Returns:
        [n_cold + some, n] float32.
    """
    kernel = _kernel(texts, texts, gamma)
    kernel[np.diag_indices(len(kernel))] += reg_weight
    # in place: the kernel is symmetric, and its transpose is in the order that LAPACK reads
    factor = scipy.linalg.cho_factor(kernel.T, overwrite_a=True, check_finite=False)
    asked = np.concatenate([cold, texts[:: -(-len(texts) // _LENGTHS)]])
    found = np.empty((len(asked), len(texts)), dtype=np.float32)
    for k in range(0, len(asked), _BLOCK):
        right = _kernel(texts, asked[k : k + _BLOCK], gamma)
        found[k : k + _BLOCK] = scipy.linalg.cho_solve(factor, right, overwrite_b=True, check_finite=False).T
    return found


def _kernel(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """exp(-gamma |a - b|^2) of rows of length 1. [n, F], [m, F] float32 -> [n, m] float64."""
    kernel = np.empty((len(a), len(b)))
    for i in range(0, len(a), _BLOCK):
        rows = a[i : i + _BLOCK].astype(np.float64)
        for k in range(0, len(b), _BLOCK):
            kernel[i : i + _BLOCK, k : k + _BLOCK] = rows @ b[k : k + _BLOCK].astype(np.float64).T
    kernel -= 1
    kernel *= 2 * gamma
    return np.exp(kernel, out=kernel)
