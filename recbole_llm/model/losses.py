"""Losses that two or more models share: tensors in, scalar tensors out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_llm.errors import ConfigError


def full_cross_entropy(queries: Tensor, items: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Softmax cross-entropy over the whole catalogue, [PAD] left out.

    Args:
        queries: [M, D] float32.
        items: item vectors, row 0 = [PAD]. [N, D] float32.
        targets: item ids in 1..N-1. [M] int64.
        reduction: "mean", or "none" for the loss of each row.
    Returns:
        Loss, nats. [] or [M].
    """
    return F.cross_entropy(queries @ items[1:].T, targets - 1, reduction=reduction)


def shared_negatives(n_items: int, n: int, generator: torch.Generator | None = None) -> Tensor:
    """``n`` distinct item ids, uniform over 1..n_items-1, shared by a batch. [min(n, n_items - 1)] int64.

    Raises:
        ConfigError: for n = 0, which leaves a loss nothing to tell the wanted items from.
    """
    if n < 1:
        raise ConfigError("num_negatives is 0, and this loss needs negatives; set it to at least 1")
    return torch.randperm(n_items - 1, generator=generator)[:n] + 1


def sampled_info_nce(
    pos_logits: Tensor, neg_logits: Tensor, targets: Tensor, negatives: Tensor, n_items: int, reduction: str = "mean"
) -> Tensor:
    r"""InfoNCE with K shared negatives: a sampled softmax with logQ correction.

    :math:`-\log \frac{e^{s_+}}{e^{s_+} + \sum_k e^{s_k - \log q}}` with :math:`q = K' / (N - 2)` the chance that a
    given non-target item is among the K' negatives left after masking the target (Bengio & Senecal 2008,
    https://doi.org/10.1109/TNN.2007.912312). In expectation the denominator is that of the full softmax.

    Args:
        pos_logits: [M] float32.
        neg_logits: [M, K] float32.
        targets: [M] int64.
        negatives: [K] int64 distinct uniform draws; one that equals a row's target is masked (with -inf, before exp).
        n_items: N, row 0 = [PAD].
        reduction: "mean", or "none" for the loss of each row.
    Returns:
        Loss, nats. [] or [M].
    """
    same = negatives[None, :] == targets[:, None]  # [M, K] false negatives
    n_left = (~same).sum(1, keepdim=True).clamp(min=1)
    log_q = torch.log(n_left.to(neg_logits.dtype)) - math.log(max(n_items - 2, 1))
    logits = torch.cat([pos_logits[:, None], (neg_logits - log_q).masked_fill(same, -torch.inf)], 1)
    return F.cross_entropy(
        logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device), reduction=reduction
    )


def in_batch_info_nce(anchors: Tensor, positives: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """InfoNCE of unit vectors with the other rows of the batch as negatives.

    Args:
        anchors: [M, D] float32, any norm.
        positives: [M, D] float32, any norm; row i belongs to anchor i.
        ids: what row i is about; rows with an equal id are not negatives of each other. [M] int64.
        temperature: logit divisor, > 0.
    Returns:
        Mean loss, nats; 0 for a batch of one.
    """
    logits = F.normalize(anchors, dim=-1) @ F.normalize(positives, dim=-1).T / temperature
    same = ids[:, None] == ids[None, :]
    same.fill_diagonal_(False)
    return F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(logits), device=logits.device))


def load_balance(gates: Tensor) -> Tensor:
    r"""Penalty for uneven use of experts: :math:`E \sum_e \bar g_e^2 - 1`, 0 when every expert is used alike.

    Shazeer et al. 2017, https://arxiv.org/abs/1701.06538, eq. 7 (squared coefficient of variation of the importance).

    Args:
        gates: softmax weights. [M, E] float32.
    """
    usage = gates.mean(0)
    return gates.shape[-1] * usage.square().sum() - 1.0
