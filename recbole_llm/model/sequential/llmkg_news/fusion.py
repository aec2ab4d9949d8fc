r"""One vector an article from those of its branches, and one a user from his clicks.

Shapes: B articles or users, n articles, m branches, d their size, L length of a history.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.layers import Dropout

FUSIONS = ("concat", "attention", "gate")


class Branch(nn.Module):
    r""":math:`r = \mathrm{Dropout}(\mathrm{ReLU}(\mathrm{LN}(W x)))`, zero for an article without the branch.

    Args:
        size: of x. width: d. dropout: share of coordinates dropped.
    """

    def __init__(self, size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(size, width), nn.LayerNorm(width), Dropout(dropout)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """x [B, size], present [B] bool -> [B, d]."""
        return self.dropout(torch.relu(self.norm(self.linear(x)))) * present[:, None]


class Fusion(nn.Module):
    r"""Branches as one vector.

    ``concat``: an MLP over all of them side by side. ``attention``: :math:`\sum_m \alpha_m r_m`,
    :math:`\alpha = \mathrm{softmax}(q \cdot K r_m / \sqrt d)` with a learned q. ``gate``: the same sum with
    :math:`\alpha = \mathrm{softmax}(W [r_1; ...; r_m])`. In both sums branches that an article lacks weigh nothing.

    Args:
        kind: one of FUSIONS. width: d. n_branches: m. hidden: of the MLP. dropout: of the MLP.
    """

    def __init__(self, kind: str, width: int, n_branches: int, hidden: int, dropout: float) -> None:
        super().__init__()
        if kind not in FUSIONS:
            raise ConfigError(f"fusion is '{kind}'; choose {', '.join(FUSIONS)}")
        self.kind = kind
        if kind == "concat":
            self.mlp = nn.Sequential(
                nn.Linear(n_branches * width, hidden), nn.LayerNorm(hidden), nn.ReLU(), Dropout(dropout),
                nn.Linear(hidden, width),
            )  # fmt: skip
        elif kind == "attention":
            self.query = nn.Parameter(torch.randn(width))
            self.key = nn.Linear(width, width, bias=False)
        else:
            self.gate = nn.Linear(n_branches * width, n_branches)

    def weights(self, parts: Tensor, present: Tensor) -> Tensor:
        """How much each branch weighs, of attention and gate. parts [B, m, d], present [B, m] bool -> [B, m]."""
        if self.kind == "attention":
            scores = self.key(parts) @ self.query / parts.shape[-1] ** 0.5
        else:
            scores = self.gate(parts.flatten(1))
        return scores.masked_fill(~present, -1e9).softmax(-1) * present  # -inf in a whole row: NaN

    def forward(self, parts: Tensor, present: Tensor) -> Tensor:
        """parts [B, m, d], present [B, m] bool -> [B, d]; zero for who has no branch, but under concat."""
        if self.kind == "concat":
            return self.mlp(parts.flatten(1))
        return (self.weights(parts, present)[:, :, None] * parts).sum(1)


class ClickAttention(nn.Module):
    r"""A history as one vector: :math:`\sum_t \mathrm{softmax}_t(w^\top \tanh(W r_t)) r_t` over the real clicks.

    An article's :math:`w^\top \tanh(W r)` is made once, however often it was clicked.

    Args:
        width: d. hidden: rows of W.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, 1, bias=False)

    def forward(self, articles: Tensor, clicks: Tensor, real: Tensor) -> Tensor:
        """articles [n, d], clicks [B, L] int64 among them, real [B, L] bool -> [B, d]; zero for who has no click."""
        scores = self.outer(torch.tanh(self.inner(articles)))[:, 0]
        weights = scores[clicks].masked_fill(~real, -1e9).softmax(-1) * real
        return F.embedding_bag(clicks, articles, per_sample_weights=weights, mode="sum")
