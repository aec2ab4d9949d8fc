"""Score fusion of UR4RecMoE: per-user standardised backbone and retriever scores, mixed by a fixed or learned weight.

Both scores are inner products, so their mean and variance over the catalogue follow from the item vectors' mean and
covariance, and the fused score of all items is one matrix product.
"""

import torch
from torch import Tensor, nn


def standardise(user: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ``user @ items.T`` over all real items, without forming it.

    Args:
        user: [M, D]; items: the real items, or a uniform sample of them, [PAD] left out. [K, D].
    Returns:
        mean [M, 1], standard deviation [M, 1] (> 0).
    """
    centre = items.mean(0)
    covariance = (items - centre).T @ (items - centre) / len(items)
    variance = ((user @ covariance) * user).sum(-1, keepdim=True)
    return (user @ centre)[:, None], variance.clamp(min=1e-8).sqrt()


class ScoreFusion(nn.Module):
    r"""final = (1 - g) z(backbone) + g z(retriever), z = standardisation over the user's scores of all real items.

    ``fixed``: g = 0.6 (the 0.4/0.6 sum of the design). ``gate``: :math:`g = \tanh(\mathrm{MLP}[h; r])`, last layer
    zero, so that at step 0 the fused score ranks as the backbone's.
    """

    def __init__(self, mode: str, hidden_size: int, gate_size: int, retriever_weight: float) -> None:
        super().__init__()
        self.mode, self.retriever_weight = mode, retriever_weight
        # logit scale of the standardised score in the fused loss; no effect on the ranking
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        if mode == "gate":
            self.gate = nn.Sequential(nn.Linear(2 * hidden_size, gate_size), nn.GELU(), nn.Linear(gate_size, 1))
            nn.init.zeros_(self.gate[-1].weight)
            nn.init.zeros_(self.gate[-1].bias)

    def weight(self, state: Tensor, user: Tensor) -> Tensor:
        """g: the retriever's share, [M, 1]."""
        if self.mode == "fixed":
            return torch.full_like(state[:, :1], self.retriever_weight)
        return torch.tanh(self.gate(torch.cat([state, user], -1)))

    def forward(self, parts: list[tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
        """Stack weighted, standardised inner-product scores into one.

        Args:
            parts: (user [M, D_k], items [K, D_k], weight [M, 1], (mean, standard deviation) [M, 1]) of each score.
        Returns:
            user [M, sum D_k + 1] and items [K, sum D_k + 1] whose inner product is the fused score.
        """
        users, tables, offset = [], [], 0.0
        for user, items, weight, (mean, std) in parts:
            users.append(user * (weight / std))
            tables.append(items)
            offset = offset - weight * mean / std
        users.append(offset)
        tables.append(torch.ones_like(tables[0][:, :1]))
        return torch.cat(users, -1), torch.cat(tables, -1)
