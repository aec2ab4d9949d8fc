"""Negatives of pairwise losses, drawn on the model's device."""

import torch
from torch import Tensor, nn


class UnseenNegatives(nn.Module):
    """For each user an item that is none of his training items, uniformly.

    Args:
        users, items: the training interactions. [n] int64 each.
        n_items: N, row 0 = [PAD].
    """

    def __init__(self, users: Tensor, items: Tensor, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("positives", torch.unique(users * n_items + items), persistent=False)  # sorted

    def forward(self, users: Tensor) -> Tensor:
        """users: [B] int64 -> items [B] int64; after 16 draws whatever came, for a user who used nearly everything."""
        drawn = torch.randint(1, self.n_items, users.shape, device=users.device)
        for _ in range(16):
            keys = users * self.n_items + drawn
            place = torch.searchsorted(self.positives, keys).clamp_(max=len(self.positives) - 1)
            wrong = (self.positives[place] == keys).nonzero()[:, 0]
            if not len(wrong):
                break
            drawn[wrong] = torch.randint(1, self.n_items, wrong.shape, device=users.device)
        return drawn
