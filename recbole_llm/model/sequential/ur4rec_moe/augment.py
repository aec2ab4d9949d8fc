"""Sequence augmentation for all-position training: mask, reorder, substitute."""

import torch
from torch import Tensor


def similar_items(features: Tensor, present: Tensor, n: int) -> Tensor:
    """The ``n`` most similar items of each item by cosine of their text features.

    Args:
        features: unit rows, row 0 = [PAD]. [N, F] float32.
        present: [N] bool; an item without text is its own substitute.
        n: neighbours an item.
    Returns:
        [N, n] int64.
    """
    cosine = features @ features.T
    cosine.fill_diagonal_(-torch.inf)
    cosine[:, ~present] = -torch.inf
    neighbours = cosine.topk(min(n, len(features) - 1), dim=1).indices
    own = torch.arange(len(features))[:, None].expand_as(neighbours)
    return torch.where(present[:, None], neighbours, own)


def augment(
    item_seq: Tensor, similar: Tensor | None, mask_rate: float, reorder_rate: float, substitute_rate: float
) -> tuple[Tensor, Tensor]:
    """A corrupted copy of the histories, and the positions that may still be trained.

    Args:
        item_seq: item ids, right-padded with 0. [B, L] int64.
        similar: substitutes of each item, [N, n] int64, or None.
        mask_rate: share of real positions replaced by [PAD]; the first item of a history is never masked.
        reorder_rate: share of neighbouring pairs swapped.
        substitute_rate: share of real positions replaced by a similar item.
    Returns:
        Histories [B, L] int64; keep [B, L] bool: False at the earlier position of a swapped pair, where the input is
        now the very item to be predicted.
    """
    seq, keep = item_seq.clone(), torch.ones_like(item_seq, dtype=torch.bool)
    if substitute_rate and similar is not None:
        chosen = (torch.rand(seq.shape, device=seq.device) < substitute_rate) & (seq > 0)
        pick = torch.randint(similar.shape[1], seq.shape, device=seq.device)
        seq = torch.where(chosen, similar[seq, pick], seq)
    if reorder_rate:
        left, right = seq[:, 0:-1:2], seq[:, 1::2]
        width = min(left.shape[1], right.shape[1])
        left, right = left[:, :width].clone(), right[:, :width].clone()
        swap = (torch.rand(left.shape, device=seq.device) < reorder_rate) & (right > 0)
        seq[:, 0 : 2 * width : 2] = torch.where(swap, right, left)
        seq[:, 1 : 2 * width : 2] = torch.where(swap, left, right)
        keep[:, 0 : 2 * width : 2] = ~swap
    if mask_rate:
        chosen = torch.rand(seq.shape, device=seq.device) < mask_rate
        chosen[:, 0] = False
        seq = seq.masked_fill(chosen, 0)
    return seq, keep
