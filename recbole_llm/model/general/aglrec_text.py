"""The texts of AGLRec: of items and users, their fusion with identities, the tower for items without interactions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.content import joined_features
from recbole_llm.model.layers import Dropout, whiten


def item_text(config, dataset) -> tuple[Tensor, Tensor]:
    """Joined and whitened features of the items: rows [N, F] float32, which items have any [N] bool.

    Raises:
        ConfigError: when nothing names a feature.
    """
    names = config["item_features"]
    if not names:
        raise ConfigError(
            "AGLRec reads texts of items: set item_features to features of the dataset, or train LightGCN instead"
        )
    return joined_features(dataset, names, config["whiten"], config["text_dim"])


def user_text(config, dataset, text: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Texts of users from training rows alone: rows of length 1 [U, F] float32, which users have any [U] bool.

    ``user_features`` where they are named (made from the training rows of this split, see data/derived.py), else the
    mean of the user's training reviews (``review_features``), else of his training items' texts. Means are weighted by
    the rating of the interaction under ``user_text_weight: rating``; a user whose ratings are all the lowest weighs
    them alike.

    Args:
        text: of :func:`item_text`.
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
    total = torch.zeros(dataset.user_num, rows.shape[1]).index_add_(0, users, rows[spoken] * weight[:, None])
    known = torch.zeros(dataset.user_num).index_add_(0, users, weight) > 0
    return F.normalize(total, dim=-1), known


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
    r"""Items that no training interaction uses, by their texts alone: the sum of two scores that err differently.

    A tower, trained to rank the items that have interactions for the model's user vectors:
    :math:`c_i = W_0 t_i + W_2\, \mathrm{GELU}(W_1 t_i)` with :math:`W_2 = 0` at step 0, scored by its cosine. And each
    user's ridge regression of his interactions on the texts, in closed form:
    :math:`p_u = (T^\top T + \lambda I)^{-1} T^\top x_u`, T the texts of the items with interactions, scored by
    :math:`p_u \cdot t_i`. The second is brought to the spread that the first has for the user over the cold items, and
    weighted.

    Args:
        rows: frozen texts, unwhitened: in ridge regression the directions in which texts vary most are shrunk least
            [N, F] float32. present: which exist [N] bool. warm: which items have interactions [N] bool.
        users, items: training interactions. [n] int64 each. n_users: U.
        width: D. hidden_size: of the tower's second branch; 0 leaves it out. dropout: of the texts the tower reads.
        ridge: lambda, > 0; 0 leaves the regression out. ridge_weight: its weight beside the tower, >= 0.
    """

    def __init__(
        self,
        rows: Tensor,
        present: Tensor,
        warm: Tensor,
        users: Tensor,
        items: Tensor,
        n_users: int,
        width: int,
        hidden_size: int,
        dropout: float,
        ridge: float,
        ridge_weight: float,
    ) -> None:
        super().__init__()
        cold = present & ~warm
        cold[0] = False
        self.ridge_weight = ridge_weight if ridge else 0.0
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("trained_on", present & warm, persistent=False)
        self.register_buffer("cold", cold, persistent=False)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(rows.shape[1], width, bias=False)
        self.branch = None
        if hidden_size:
            last = nn.Linear(hidden_size, width, bias=False)
            nn.init.zeros_(last.weight)
            self.branch = nn.Sequential(nn.Linear(rows.shape[1], hidden_size), nn.GELU(), last)
        if self.ridge_weight:
            known = rows[self.trained_on].double()  # [n, F]
            gram = known.T @ known + ridge * torch.eye(rows.shape[1], dtype=torch.float64)
            pairs = torch.unique(users * len(rows) + items)  # a repeated interaction counts once
            users, items = pairs // len(rows), pairs % len(rows)
            totals = torch.zeros(n_users, rows.shape[1]).index_add_(0, users, rows[items])  # T^T x_u
            profiles = torch.linalg.solve(gram, totals.T.double()).T.float()
            self.register_buffer("profiles", profiles, persistent=False)  # [U, F]

    def forward(self, chosen: Tensor) -> Tensor:
        """The tower's unit vectors of the chosen items ([N] bool). [n, D] float32."""
        rows = self.dropout(self.rows[chosen])
        out = self.linear(rows) if self.branch is None else self.linear(rows) + self.branch(rows)
        return F.normalize(out, dim=-1)

    def join(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors whose inner products score cold items by their texts, the others as before.

        Args:
            users [U, D], items [N, D]: unit vectors.
        Returns:
            users [U, D + F], items [N, D + F]; of width D without the regression.
        """
        by_text = self(self.cold)  # [n, D]
        items = items.clone()
        items[self.cold] = by_text
        if not self.ridge_weight:
            return users, items
        texts = self.rows[self.cold]  # [n, F]
        spread = [_spread(users, by_text), _spread(self.profiles, texts)]  # [U, 1] each
        profiles = self.profiles * (self.ridge_weight * spread[0] / spread[1].clamp(min=1e-12))
        beside = torch.zeros(len(items), texts.shape[1], device=items.device)
        beside[self.cold] = texts
        return torch.cat([users, profiles], 1), torch.cat([items, beside], 1)


def _spread(users: Tensor, items: Tensor) -> Tensor:
    """Standard deviation of each user's scores over the items. [U, D], [n, D] -> [U, 1]."""
    centred = items - items.mean(0)
    covariance = centred.T @ centred / max(len(items), 1)
    return ((users @ covariance) * users).sum(1, keepdim=True).clamp(min=0).sqrt()
