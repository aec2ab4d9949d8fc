"""Masked-feature restoration: features of some items are hidden for a step and decoded from what their users tell.

Wei et al. 2024 (LLMRec), https://arxiv.org/abs/2311.00423, sect. 3.3, after GraphMAE (Hou et al. 2022,
https://arxiv.org/abs/2205.10803). A copy is masked, and the decoder is trained: the released code overwrites the
features for good and never steps its decoder's optimiser.

Shapes: U users, N items, F' feature size of a branch, D embedding size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.model.general.llmrec.side import SideBranch


class Restoration(nn.Module):
    """Masks the features of items and decodes them.

    Args:
        branches: of LLMRec; those of items' features are masked. rate: share of the items, in (0, 1). width: D.
    """

    def __init__(self, branches: list[SideBranch], rate: float, width: int) -> None:
        super().__init__()
        self.rate = rate
        of_items = {k: branch for k, branch in enumerate(branches) if branch.own is not None}
        self.decoders = nn.ModuleDict({str(k): nn.Linear(width, b.own.shape[1]) for k, b in of_items.items()})

    def mask(self, n_items: int, device: torch.device) -> Tensor:
        """Which items are masked in this step. [N] bool, never [PAD]."""
        masked = torch.rand(n_items, device=device) < self.rate
        masked[0] = False
        return masked

    @staticmethod
    def shift(branch: SideBranch, masked: Tensor, adjacency: Tensor, n_users: int) -> Tensor:
        """What masking changes in the items' projected, propagated rows: masked features become the column mean.

        Args:
            masked: [N] bool. adjacency: [U + N, U + N], symmetric.
        Returns:
            [N, D], to be added to the projected rows.
        """
        mean = branch.own[branch.present].mean(0)
        hidden = masked & branch.present
        change = torch.zeros_like(branch.own)
        change[hidden] = mean - branch.own[hidden]
        change = branch.project(change)
        users = product(adjacency, torch.cat([change.new_zeros(n_users, change.shape[1]), change]))[:n_users]
        return product(adjacency, torch.cat([users, torch.zeros_like(change)]))[n_users:]

    def loss(self, k: int, branch: SideBranch, items: Tensor, masked: Tensor) -> Tensor:
        r"""Scaled cosine error :math:`(1 - \cos)^2` of decoded and true features, mean over the masked items.

        Args:
            k: number of the branch. items: its propagated rows under the mask [N, D]. masked: [N] bool.
        """
        hidden = masked & branch.present
        if not hidden.any():
            return items.new_zeros(())
        decoded = F.leaky_relu(self.decoders[str(k)](items[hidden]))
        return (1.0 - F.cosine_similarity(decoded, branch.own[hidden], dim=-1)).square().mean()


class _Product(torch.autograd.Function):
    """A symmetric sparse matrix times a dense one; the backward pass is the same product."""

    @staticmethod
    def forward(ctx, adjacency: Tensor, x: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return adjacency @ x

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, ctx.adjacency @ grad.contiguous()


def product(adjacency: Tensor, x: Tensor) -> Tensor:
    """adjacency [M, M] symmetric, x [M, D] float32 -> [M, D]."""
    return _Product.apply(adjacency, x)
