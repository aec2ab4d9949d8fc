"""Losses of clicks among what was shown.

Shapes: B rows, M articles that were not clicked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_llm.errors import ConfigError

LOSSES = ("listwise", "bce", "focal")


def listwise(clicked: Tensor, others: Tensor, n_hardest: int) -> Tensor:
    """Softmax cross-entropy of a click among articles not clicked (Wu et al. 2019, NRMS, eq. 10).

    Args:
        clicked: scores [B]. others: scores [B, M]. n_hardest: only so many with the highest scores count.
    """
    if others.shape[1] > n_hardest:
        others = others.topk(n_hardest, dim=1).values
    return F.cross_entropy(torch.cat([clicked[:, None], others], 1), clicked.new_zeros(len(clicked), dtype=torch.long))


def pointwise(scores: Tensor, labels: Tensor, kind: str, pos_weight: float, gamma: float) -> Tensor:
    r"""Binary cross-entropy, or focal loss: :math:`-(1 - p_t)^\gamma \log p_t` (Lin et al. 2017, eq. 4).

    Args:
        scores: logits [B]. labels: 0 or 1 [B]. pos_weight: weight of clicked rows. gamma: of focal loss, >= 0.
    """
    losses = F.binary_cross_entropy_with_logits(
        scores, labels, reduction="none", pos_weight=scores.new_tensor(pos_weight)
    )
    if kind == "focal":
        right = torch.where(labels > 0, scores, -scores).sigmoid()
        losses = (1.0 - right) ** gamma * losses
    return losses.mean()


def check_loss(kind: str) -> str:
    """The name, or ConfigError."""
    if kind not in LOSSES:
        raise ConfigError(f"loss is '{kind}'; choose {', '.join(LOSSES)}")
    return kind


def agreement(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of the same articles, both ways. a, b [B, d] -> []."""
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / temperature
    wanted = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2
