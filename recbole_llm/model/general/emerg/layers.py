r"""Interactions of an item's fields over its graph, attention over their orders, one vector an item.

Wang et al. 2024 (EmerG), https://arxiv.org/abs/2407.10112, sect. 4.2.

Shapes: B items, n fields, d their size, L layers, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.errors import ConfigError
from recbole_llm.model.layers import Dropout

INTEGRATIONS = ("product", "residual")


class EnhancedGNNLayer(nn.Module):
    r"""One order of interaction more: :math:`a = \mathrm{LeakyReLU}(A e W)`, :math:`h' = a \odot h`.

    A aggregates the field embeddings e themselves, as in EmerG, so that after l layers h holds products of l + 1 of
    them. A row of A is divided by its sum: fields have different numbers of neighbours. ``residual`` takes
    :math:`a + h` instead, as an earlier integration did: no product, no higher order.

    Args:
        width: d. integration: "product" | "residual". last: EmerG's last layer has no LeakyReLU.
    """

    def __init__(self, width: int, integration: str, last: bool) -> None:
        super().__init__()
        if integration not in INTEGRATIONS:
            raise ConfigError(f"integration is '{integration}'; choose {' or '.join(INTEGRATIONS)}")
        self.integration, self.last = integration, last
        self.linear = nn.Linear(width, width, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, graph: Tensor, fields: Tensor, h: Tensor, present: Tensor) -> Tensor:
        """graph [B, n, n], e, h (zero where absent) [B, n, d], present [B, n] bool -> [B, n, d], zero where absent."""
        among = graph * present[:, None, :]
        among = among / among.sum(-1, keepdim=True).clamp(min=1e-6)
        a = self.linear(among @ fields)
        if not self.last:
            a = F.leaky_relu(a)
        return a * h if self.integration == "product" else (a + h) * present[:, :, None]


class FieldReadout(nn.Module):
    r"""The fields of each order as one vector: :math:`\sum_m g_m h_m^{(l)}`, g a softmax over the fields an item has.

    EmerG gates a score of each field by a network that sees all of them; here vectors are weighed, because an item is
    scored for all users at once, and before the attention, which so reads one token an order.

    Args:
        width: d. n_fields: n. hidden: width of the gate.
    """

    def __init__(self, width: int, n_fields: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(n_fields * width, hidden), nn.ReLU(), nn.Linear(hidden, n_fields))

    def forward(self, h: list[Tensor], present: Tensor) -> Tensor:
        """h: of each order [B, n, d], zero where absent, present [B, n] bool -> [B, L + 1, d]; zero without a field."""
        scores = self.gate(F.relu(sum(h)).flatten(1))
        gates = scores.masked_fill(~present, -1e9).softmax(-1)[:, :, None]  # -inf in a whole row: NaN
        return torch.stack([(gates * order).sum(1) for order in h], 1)


class MultiHeadSelfAttention(nn.Module):
    """Self-attention over the L + 1 orders of interaction, then their sum.

    Args:
        width: d. n_heads: H, a divisor of d. dropout: of what is added.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        if n_heads < 1 or width % n_heads:
            raise ConfigError(f"a field_dim of {width} does not split into {n_heads} attention_heads; take a multiple")
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, orders: Tensor) -> Tensor:
        """orders: [B, L + 1, d] -> [B, d]."""
        batch, n, width = orders.shape
        # a handful of tokens: written out with the items innermost, it takes a sixth of the time of torch's kernel
        size = width // self.n_heads
        q, k, v = self.qkv(orders).permute(1, 2, 0).reshape(n, 3, self.n_heads, size, batch).unbind(1)
        weights = (q[:, None] * k).sum(3).div(size**0.5).softmax(1)  # [L + 1 who looks, L + 1 at whom, H, B]
        mixed = (weights.sum(0)[:, :, None] * v).sum(0).reshape(width, batch).T  # of all orders together
        return orders.sum(1) + self.dropout(self.out(mixed))
