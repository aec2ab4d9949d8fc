"""The interaction branch: graphs, layers, attention and readout over the fields of a batch of items."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recbole_llm.errors import ConfigError
from recbole_llm.model.general.emerg.graphs import ItemSpecificGraphGenerator, SharedGraph, refine
from recbole_llm.model.general.emerg.layers import EnhancedGNNLayer, FieldReadout, MultiHeadSelfAttention

GRAPHS = ("item", "shared", "none")


class FieldInteraction(nn.Module):
    """From an item's fields and content to one vector of their interactions.

    Fields interact in ``field_dim`` dimensions, to which each is projected by a matrix of its own: EmerG's are 16 wide.

    Args:
        width: D. field_dim: d. n_fields: n. content_size: C.
        graph: "item" (of its own, from its content) | "shared" (one for all) | "none" (fields stay by themselves).
        gnn_layers: L >= 1. integration: see EnhancedGNNLayer.
        attention_heads: H; 0 leaves attention out, and the layers are summed. dropout: of attention.
        hidden: width of the hypernetwork's and the gate's hidden layers.
        checkpointing: recompute instead of keeping activations: less memory, a third more time.
    """

    def __init__(
        self,
        width: int,
        field_dim: int,
        n_fields: int,
        content_size: int,
        graph: str,
        gnn_layers: int,
        integration: str,
        attention_heads: int,
        dropout: float,
        hidden: int,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        if graph not in GRAPHS:
            raise ConfigError(f"graph is '{graph}'; choose {', '.join(GRAPHS)}")
        if gnn_layers < 1:
            raise ConfigError(f"gnn_layers is {gnn_layers}; it must be at least 1")
        self.n_fields, self.checkpointing = n_fields, checkpointing
        self.generator = None
        if graph != "none":
            own = graph == "item"
            self.generator = (
                ItemSpecificGraphGenerator(content_size, n_fields, hidden) if own else SharedGraph(n_fields)
            )
        self.narrow = nn.Parameter(torch.empty(n_fields, width, field_dim))
        for matrix in self.narrow:
            nn.init.xavier_normal_(matrix)
        self.layers = nn.ModuleList(
            EnhancedGNNLayer(field_dim, integration, last=k + 1 == gnn_layers) for k in range(gnn_layers)
        )
        self.readout = FieldReadout(field_dim, n_fields, hidden)
        self.attention = MultiHeadSelfAttention(field_dim, attention_heads, dropout) if attention_heads else None
        self.out = nn.Linear(field_dim, width, bias=False)

    def graphs(self, content: Tensor, added: Tensor | None = None) -> list[Tensor]:
        """Adjacencies of the layers. content [B, C], added to the raw graph [B, n, n] -> L tensors [B, n, n]."""
        if self.generator is None:
            eye = torch.eye(self.n_fields, device=content.device).expand(len(content), -1, -1)
            return [eye] * len(self.layers)
        raw = self.generator(content)
        return refine(raw if added is None else raw + added, len(self.layers))

    def narrowed(self, fields: Tensor) -> Tensor:
        """Fields in the width in which they interact; zero where they are. [B, n, D] -> [B, n, d]."""
        return (fields.transpose(0, 1) @ self.narrow).transpose(0, 1).contiguous()

    def forward(self, narrow: Tensor, present: Tensor, graphs: list[Tensor]) -> Tensor:
        """narrow: of :meth:`narrowed` [B, n, d], present [B, n] bool, graphs: of :meth:`graphs` -> z [B, D]."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, narrow, present, graphs, use_reentrant=False)
        return self._forward(narrow, present, graphs)

    def _forward(self, narrow: Tensor, present: Tensor, graphs: list[Tensor]) -> Tensor:
        outputs = [narrow]
        for layer, graph in zip(self.layers, graphs, strict=True):
            outputs.append(layer(graph, narrow, outputs[-1], present))
        orders = self.readout(outputs, present)  # [B, L + 1, d]
        return self.out(orders.sum(1) if self.attention is None else self.attention(orders))
