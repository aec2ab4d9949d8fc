"""The retriever of UR4RecMoE: item vectors and user vectors whose cosine is the retriever's score.

Shapes: N items (row 0 = [PAD]), M rows, E facets, S tokens a facet, F' whitened feature size, D hidden size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_llm.model.layers import causal_mean
from recbole_llm.model.sequential.ur4rec_moe.moe import CrossModalGate, ModalityMoE, PreferenceMemory


class FacetTokens(nn.Module):
    """S learned linear views of each facet's frozen item embedding: [N, F'] -> [N, S, D] a facet.

    Args:
        facets: whitened features a facet, each ([N, F'] float32, present [N] bool).
        n_tokens: S, at least 2.
    """

    def __init__(self, facets: list[tuple[Tensor, Tensor]], n_tokens: int, hidden_size: int) -> None:
        super().__init__()
        self.n_tokens, self.hidden_size = n_tokens, hidden_size
        self.views = nn.ModuleList(nn.Linear(x.shape[1], n_tokens * hidden_size) for x, _ in facets)
        self.position = nn.Parameter(torch.randn(len(facets), n_tokens, hidden_size) * 0.02)
        for k, (x, _) in enumerate(facets):
            self.register_buffer(f"facet_{k}", x, persistent=False)
        self.register_buffer("present", torch.stack([p for _, p in facets], 1), persistent=False)  # [N, E]

    def forward(self, ids: Tensor | None = None) -> Tensor:
        """Tokens of the items ``ids`` [n] (None: all); a missing facet has the zero embedding. [E, n, S, D]."""
        facets = [getattr(self, f"facet_{k}") for k in range(len(self.views))]
        tokens = [
            view(x if ids is None else x[ids]).view(-1, self.n_tokens, self.hidden_size)
            for view, x in zip(self.views, facets, strict=True)
        ]
        return torch.stack(tokens) + self.position[:, None]


class Retriever(nn.Module):
    """Item side (description and visual modalities) and user side (preference modality and memory).

    Args:
        modalities: modality name -> its facets (see FacetTokens); "user" is the user side, the others the item side.
        sizes: hidden_size, n_heads, expert_inner_size, gate_size, num_proxies, n_tokens.
    """

    def __init__(
        self,
        modalities: dict[str, list[tuple[Tensor, Tensor]]],
        *,
        hidden_size: int,
        n_heads: int,
        expert_inner_size: int,
        gate_size: int,
        num_proxies: int,
        n_tokens: int,
        dropout: float,
        top_k: int | None,
    ) -> None:
        super().__init__()
        self.names = list(modalities)
        self.item_names = [name for name in self.names if name != "user"]
        self.tokens = nn.ModuleDict({m: FacetTokens(f, n_tokens, hidden_size) for m, f in modalities.items()})
        self.moe = nn.ModuleDict(
            {
                m: ModalityMoE(len(f), hidden_size, n_heads, expert_inner_size, gate_size, dropout, top_k)
                for m, f in modalities.items()
            }
        )
        self.cross = CrossModalGate(len(self.item_names), hidden_size, gate_size)
        self.memory = PreferenceMemory(hidden_size, n_heads, num_proxies, dropout)

    def items(self, item_vectors: Tensor, ids: Tensor | None = None) -> dict[str, Tensor | dict[str, Tensor]]:
        """Item side of n items.

        Args:
            item_vectors: the backbone's item vectors, the experts' queries. [n, D].
            ids: whose they are, [n] int64; None: the whole catalogue.
        Returns:
            ``f`` [n, D]; ``outputs`` {modality: [n, D]}; ``gates`` {modality: [n, E], "item": [n, modalities]};
            ``present`` [n, modalities] bool.
        """
        outputs, gates, present = {}, {}, []
        for name in self.item_names:
            here = self.tokens[name].present if ids is None else self.tokens[name].present[ids]
            outputs[name], gates[name] = self.moe[name](item_vectors, self.tokens[name](ids), here)
            present.append(here.any(1))
        present = torch.stack(present, 1)
        fused, gates["item"] = self.cross(item_vectors, list(outputs.values()), present)
        return {"f": fused, "outputs": outputs, "gates": gates, "present": present}

    def user_tokens(self, item_seq: Tensor) -> tuple[Tensor, Tensor]:
        """Preference tokens at each position: causal means over the history's items up to it.

        Args:
            item_seq: [B, L] int64, right-padded.
        Returns:
            tokens [E, B * L, S, D]; present [B * L, E] bool: whether an item with the facet has been seen.
        """
        facets = self.tokens["user"]
        table, here = facets(), facets.present  # [E, N, S, D], [N, E]
        seen = here[item_seq]  # [B, L, E]; the [PAD] row is never present
        means = [
            causal_mean(F.embedding(item_seq, table[k].flatten(1)), seen[..., k]) for k in range(len(table))
        ]  # a mean of linear views is the view of the mean
        tokens = torch.stack(means).view(len(table), -1, facets.n_tokens, facets.hidden_size)
        return tokens, seen.cumsum(1).bool().flatten(0, 1)

    def last_user_tokens(self, item_seq: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`user_tokens` gives at the last position of each history, without the others.

        Args:
            item_seq: [B, L] int64, right-padded; lengths: [B] int64.
        Returns:
            tokens [E, B, S, D]; present [B, E] bool.
        """
        facets = self.tokens["user"]
        table = facets()  # [E, N, S, D]
        real = torch.arange(item_seq.shape[1], device=item_seq.device) < lengths[:, None]
        seen = facets.present[item_seq] & real[..., None]  # [B, L, E]
        weights = seen.to(table.dtype) / seen.sum(1, keepdim=True).clamp(min=1)
        means = [
            F.embedding_bag(item_seq, table[k].flatten(1), mode="sum", per_sample_weights=weights[..., k].contiguous())
            for k in range(len(table))
        ]
        tokens = torch.stack(means).view(len(table), -1, facets.n_tokens, facets.hidden_size)
        return tokens, seen.any(1)

    def users(self, states: Tensor, tokens: Tensor | None, present: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """User side at M positions.

        Args:
            states: history states h_u. [M, D].
            tokens: [E, M, S, D] of :meth:`user_tokens`, or None when the modality is off; present: [M, E].
        Returns:
            r_u [M, D]; the preference output o_u [M, D] (None when off); gates [M, E] (None when off).
        """
        output = gates = None
        if tokens is not None:
            output, gates = self.moe["user"](states, tokens, present)
        return self.memory(states[:, None], output)[:, 0], output, gates
