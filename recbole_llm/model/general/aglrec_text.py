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

    RecBole scales ratings to [0, 1]; interactions without a rating weigh alike.
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
        rows: frozen texts [n, F] float32. present: which exist [n] bool.
        mode: "sum" | "concat". width: D. fusion_dim: width of the projected text; None: D, and in ``sum`` one matrix.
    """

    def __init__(self, rows: Tensor, present: Tensor, mode: str, width: int, fusion_dim: int | None) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("present", present, persistent=False)
        size = rows.shape[1]
        if mode == "concat":
            self.project: nn.Module = nn.Linear(size, fusion_dim or width, bias=False)
            self.mix = nn.Linear(width + (fusion_dim or width), width, bias=False)
            with torch.no_grad():
                self.mix.weight.zero_()[:, :width].fill_diagonal_(1.0)
        else:
            last = nn.Linear(fusion_dim or size, width, bias=False)
            nn.init.zeros_(last.weight)
            self.project = nn.Sequential(nn.Linear(size, fusion_dim, bias=False), last) if fusion_dim else last
            self.mix = None
        # what stands for a text that is not there; without such a row it would never be trained
        out = (fusion_dim or width) if mode == "concat" else width
        self.missing = nn.Parameter(torch.zeros(out)) if not present[1:].all() else None

    def forward(self, identities: Tensor) -> Tensor:
        """identities: [n, D] -> [n, D]."""
        text = self.project(self.rows)
        if self.missing is not None:
            text = torch.where(self.present[:, None], text, self.missing)
        return identities + text if self.mix is None else self.mix(torch.cat([identities, text], 1))


class ContentTower(nn.Module):
    r"""Item vectors from texts alone: :math:`c = W_0 t + W_2\, \mathrm{GELU}(W_1 t)`, with :math:`W_2 = 0` at step 0.

    Args:
        rows: frozen texts [N, F] float32. present: which exist [N] bool.
        width: D. hidden_size: of the second branch; 0 leaves it out. dropout: of the texts.
    """

    def __init__(self, rows: Tensor, present: Tensor, width: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(rows.shape[1], width, bias=False)
        self.branch = None
        if hidden_size:
            last = nn.Linear(hidden_size, width, bias=False)
            nn.init.zeros_(last.weight)
            self.branch = nn.Sequential(nn.Linear(rows.shape[1], hidden_size), nn.GELU(), last)

    def forward(self, chosen: Tensor | None = None) -> Tensor:
        """Vectors of the chosen items ([N] bool), or of all. [n, D] float32."""
        rows = self.dropout(self.rows if chosen is None else self.rows[chosen])
        return self.linear(rows) if self.branch is None else self.linear(rows) + self.branch(rows)
