"""The mixture of experts of UR4RecMoE: sub-experts over facet tokens, gates within and across modalities.

Shapes: M rows (items or history positions), E experts, S tokens a facet, D hidden size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.model.layers import Dropout


class GroupedLinear(nn.Module):
    """E independent linear maps in one batched product: [E, M, D_in] -> [E, M, D_out]."""

    def __init__(self, n_groups: int, in_size: int, out_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_groups, in_size, out_size))
        self.bias = nn.Parameter(torch.zeros(n_groups, 1, out_size))
        bound = 1.0 / math.sqrt(in_size)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class SubExperts(nn.Module):
    r"""E experts, each reading its own facet's tokens.

    :math:`E_e(q, c) = \mathrm{FFN}_e(\mathrm{LN}(q + \mathrm{MHA}_e(q, c_e, c_e)))`, FFN D -> inner -> D with GELU.
    Every expert attends over S > 1 tokens: over a single one attention would be a constant map.
    """

    def __init__(self, n_experts: int, hidden_size: int, n_heads: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = GroupedLinear(n_experts, hidden_size, hidden_size)
        self.key_value = GroupedLinear(n_experts, hidden_size, 2 * hidden_size)
        self.attn_out = GroupedLinear(n_experts, hidden_size, hidden_size)
        self.norm_weight = nn.Parameter(torch.ones(n_experts, 1, hidden_size))
        self.norm_bias = nn.Parameter(torch.zeros(n_experts, 1, hidden_size))
        self.ffn_in = GroupedLinear(n_experts, hidden_size, inner_size)
        self.ffn_out = GroupedLinear(n_experts, inner_size, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Args: query [M, D]; tokens [E, M, S, D]. Returns: [E, M, D]."""
        n_experts, n_rows, n_tokens, width = tokens.shape
        heads, head_size = self.n_heads, width // self.n_heads
        q = self.query(query.expand(n_experts, -1, -1)).view(n_experts, n_rows, heads, head_size)
        kv = self.key_value(tokens.reshape(n_experts, n_rows * n_tokens, width))
        k, v = kv.view(n_experts, n_rows, n_tokens, 2, heads, head_size).unbind(3)  # [E, M, S, heads, D / heads]
        logits = torch.einsum("emhd,emshd->emhs", q, k) / math.sqrt(head_size)
        mixed = torch.einsum("emhs,emshd->emhd", logits.softmax(-1), v).reshape(n_experts, n_rows, width)
        x = query + self.dropout(self.attn_out(mixed))  # [E, M, D]
        x = F.layer_norm(x, (width,)) * self.norm_weight + self.norm_bias
        return self.ffn_out(self.dropout(F.gelu(self.ffn_in(x))))


def masked_gates(logits: Tensor, present: Tensor, top_k: int | None = None) -> Tensor:
    """Softmax over what is present; a row with nothing present gets zeros.

    Args:
        logits: [M, E] float32.
        present: [M, E] bool.
        top_k: keep only the k largest gates of a row; None keeps all (dense).
    """
    logits = logits.masked_fill(~present, -torch.inf)
    if top_k is not None and top_k < logits.shape[-1]:
        floor = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < floor, -torch.inf)
    empty = ~present.any(-1, keepdim=True)
    return logits.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)


def _gate(in_size: int, gate_size: int, n_choices: int) -> nn.Module | None:
    """MLP of a gate; None where there is a single choice, whose softmax would be constant."""
    if n_choices == 1:
        return None
    return nn.Sequential(nn.Linear(in_size, gate_size), nn.GELU(), nn.Linear(gate_size, n_choices))


class ModalityMoE(nn.Module):
    r"""The experts of one modality and their gate: :math:`o = W\,\mathrm{LN}(\sum_e g_e E_e)`,
    :math:`g = \mathrm{softmax}(\mathrm{MLP}[q; \bar c])` over the facets that are present."""

    def __init__(
        self,
        n_experts: int,
        hidden_size: int,
        n_heads: int,
        inner_size: int,
        gate_size: int,
        dropout: float,
        top_k: int | None,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.experts = SubExperts(n_experts, hidden_size, n_heads, inner_size, dropout)
        self.gate = _gate(2 * hidden_size, gate_size, n_experts)
        self.norm = nn.LayerNorm(hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, query: Tensor, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Args: query [M, D]; tokens [E, M, S, D]; present [M, E] bool. Returns: output [M, D], gates [M, E]."""
        weight = present.T[..., None].to(tokens.dtype)  # [E, M, 1]
        pooled = (tokens.mean(2) * weight).sum(0) / weight.sum(0).clamp(min=1.0)  # [M, D]
        if self.gate is None:
            gates = present.to(query.dtype)
        else:
            gates = masked_gates(self.gate(torch.cat([query, pooled], -1)), present, self.top_k)
        mixed = torch.einsum("me,emd->md", gates, self.experts(query, tokens))
        return self.out(self.norm(mixed)), gates


class CrossModalGate(nn.Module):
    r"""Across modalities: :math:`f = \sum_m w_m o_m`, :math:`w = \mathrm{softmax}(\mathrm{MLP}[q; o_1; ..])`,
    missing modalities masked."""

    def __init__(self, n_modalities: int, hidden_size: int, gate_size: int) -> None:
        super().__init__()
        self.gate = _gate((1 + n_modalities) * hidden_size, gate_size, n_modalities)

    def forward(self, query: Tensor, outputs: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """Args: query [M, D]; outputs of each modality [M, D]; present [M, modalities] bool.

        Returns: fused [M, D] (zeros for a row without any modality), weights [M, modalities].
        """
        shown = [o * p[:, None] for o, p in zip(outputs, present.T, strict=True)]
        if self.gate is None:
            weights = present.to(query.dtype)
        else:
            weights = masked_gates(self.gate(torch.cat([query, *shown], -1)), present)
        return torch.einsum("mk,kmd->md", weights, torch.stack(shown)), weights


class PreferenceMemory(nn.Module):
    r"""User vector from history state, user-side output and learned proxies:
    :math:`r = \mathrm{LN}(h + \mathrm{MHA}(h, [o; P], [o; P]))`, :math:`P \in R^{num\_proxies \times D}`.

    The proxies are those of UR4Rec's preference retriever. The same attention serves re-ranking, with an item vector
    in the place of h.
    """

    def __init__(self, hidden_size: int, n_heads: int, num_proxies: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.proxies = nn.Parameter(torch.randn(num_proxies, hidden_size) * hidden_size**-0.5)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.attn_out = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, query: Tensor, output: Tensor | None) -> Tensor:
        """Args: query [M, C, D], C queries a row; output [M, D] or None (user side off). Returns: [M, C, D]."""
        n_rows, n_queries, width = query.shape
        heads, size = self.n_heads, width // self.n_heads
        q = self.query(query).view(n_rows, n_queries, heads, size)
        pk, pv = self.key_value(self.proxies).view(-1, 2, heads, size).unbind(1)  # [P, heads, D / heads]
        logits = torch.einsum("mchd,phd->mchp", q, pk)  # the proxies are shared by all rows: no copy a row
        if output is not None:
            ok, ov = self.key_value(output).view(n_rows, 2, heads, size).unbind(1)  # [M, heads, D / heads]
            logits = torch.cat([logits, torch.einsum("mchd,mhd->mch", q, ok)[..., None]], -1)
        weights = (logits / math.sqrt(size)).softmax(-1)  # [M, C, heads, P (+ 1)]
        mixed = torch.einsum("mchp,phd->mchd", weights[..., : len(self.proxies)], pv)
        if output is not None:
            mixed = mixed + weights[..., -1:] * ov[:, None]
        return self.norm(query + self.dropout(self.attn_out(mixed.reshape(n_rows, n_queries, width))))
