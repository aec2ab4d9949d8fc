"""Convolution over the articles' knowledge graph, trained with the model.

The whole graph is convolved where it is small, and always to score. To train on a larger one the wanted articles'
neighbours are sampled hop by hop from a CSR of our own (Hamilton et al. 2017, GraphSAGE,
https://arxiv.org/abs/1706.02216), because the samplers of torch_geometric need compiled helpers.

Shapes: V nodes, the N items first; h their size.
"""

import warnings

import torch
from torch import Tensor, nn

from recbole_llm.errors import ConfigError, MissingDependencyError

GNNS = ("sage", "gat")
_HEADS = 4


class EntityGraph(nn.Module):
    r"""Vectors of articles by what they and their entities are.

    ``sage``: GraphSAGE with the mean of the neighbours; ``gat``: Velickovic et al. 2018,
    https://arxiv.org/abs/1710.10903, 4 heads. An item starts from its text, projected; an entity from its given vector,
    projected, beside a learned one, which is all it has where none is given.

    Args:
        indptr, indices: CSR of the neighbours, see KnowledgeGraph.neighbours.
        n_items: N. text: items' text rows [N, F], or None: they start from a learned vector, the same for all.
        entities: given vectors of the entities [V - N, F'], zero where there is none, or None.
        kind: one of GNNS. n_layers: >= 1. size: h. width: of the output. dropout: between layers.
        fanout: neighbours sampled a node in each hop. whole_below: graphs with fewer nodes are convolved whole.
    """

    def __init__(
        self,
        indptr: Tensor,
        indices: Tensor,
        n_items: int,
        text: Tensor | None,
        entities: Tensor | None,
        kind: str,
        n_layers: int,
        size: int,
        width: int,
        dropout: float,
        fanout: int,
        whole_below: int,
    ) -> None:
        super().__init__()
        if kind not in GNNS:
            raise ConfigError(f"gnn is '{kind}'; choose {' or '.join(GNNS)}")
        if n_layers < 1 or fanout < 1:
            raise ConfigError(f"gnn_layers ({n_layers}) and fanout ({fanout}) must be at least 1")
        self.n_items, self.fanout = n_items, fanout
        n_nodes = len(indptr) - 1
        self.whole = n_nodes < whole_below
        for name, table in (("indptr", indptr), ("indices", indices), ("text", text), ("given", entities)):
            self.register_buffer(name, table, persistent=False)
        targets = torch.repeat_interleave(torch.arange(n_nodes), indptr.diff())
        self.register_buffer("edges", torch.stack([indices, targets]), persistent=False)
        self.n_item_edges = int(indptr[n_items])  # those into items come first, as their targets do
        self.item_start = nn.Parameter(torch.zeros(size)) if text is None else nn.Linear(text.shape[1], size)
        self.entity_start = nn.Embedding(n_nodes - n_items, size)
        nn.init.normal_(self.entity_start.weight, std=0.1)
        self.entity_given = None if entities is None else nn.Linear(entities.shape[1], size, bias=False)
        sizes = [size] * n_layers + [width]
        self.layers = nn.ModuleList(_convolution(kind, a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.dropout = nn.Dropout(dropout)

    def start(self, nodes: Tensor | None) -> Tensor:
        """Vectors before the first layer, of some nodes or all. nodes [n] int64 -> [n, h]."""
        if nodes is None:
            nodes = torch.arange(len(self.indptr) - 1, device=self.indptr.device)
        of_items = nodes < self.n_items
        items, entities = nodes[of_items], nodes[~of_items] - self.n_items
        own = self.entity_start(entities)
        if self.entity_given is not None:
            own = own + self.entity_given(self.given[entities])
        found = own.new_empty(len(nodes), own.shape[1])
        found[of_items] = (
            self.item_start.expand(len(items), -1) if self.text is None else self.item_start(self.text[items])
        )
        found[~of_items] = own
        return found

    def forward(self, ids: Tensor) -> Tensor:
        """Convolved vectors of items, in training of sampled neighbours. ids [n] int64 -> [n, width]."""
        if self.whole or not self.training:  # a score must not hang on who was drawn
            return self.items()[ids]
        nodes, hops = self.sampled(ids)
        return self._convolved(self.start(nodes), hops)

    def items(self) -> Tensor:
        """Vectors of all items over the whole graph. [N, width]."""
        everywhere = len(self.indptr) - 1, self.edges
        hops = [(self.n_items, self.edges[:, : self.n_item_edges])] + [everywhere] * (len(self.layers) - 1)
        return self._convolved(self.start(None), hops)

    def _convolved(self, x: Tensor, hops: list[tuple[int, Tensor]]) -> Tensor:
        """Layers from the outside in: the last one makes the vectors of the wanted nodes alone.

        Args:
            x: of the nodes before the first layer. hops: for each layer, the last one first: how many nodes, from the
                first on, need a vector, and the edges into them.
        """
        for k, (layer, (n_targets, edges)) in enumerate(zip(self.layers, reversed(hops), strict=True)):
            x = x if k == 0 else self.dropout(torch.relu(x))
            x = layer((x, x[:n_targets]), edges)
        return x

    def sampled(self, ids: Tensor) -> tuple[Tensor, list[tuple[int, Tensor]]]:
        """The subgraph that items reach in as many hops as there are layers, ``fanout`` neighbours a node at most.

        Args:
            ids: distinct items [n] int64.
        Returns:
            nodes [k] int64, the items first, then hop by hop; for each number of hops less than the layers, how many
            nodes are not farther away than that, and the edges (source, target) into these as places [2, e] int64.
        """
        nodes, frontier, sources, targets, within = ids, ids, [], [], []
        for _ in self.layers:
            degree = self.indptr[frontier + 1] - self.indptr[frontier]
            draws = torch.rand(len(frontier), self.fanout, device=ids.device)
            every = torch.arange(self.fanout, device=ids.device)
            # all neighbours where they are few enough, else random ones, a neighbour perhaps twice
            few = (degree <= self.fanout)[:, None]
            offset = torch.where(few, every, (draws * degree[:, None]).long())
            taken = offset < degree[:, None]
            found = self.indices[(self.indptr[frontier][:, None] + offset)[taken]]
            within.append(len(nodes))
            sources.append(found)
            targets.append(frontier.repeat_interleave(self.fanout).view(-1, self.fanout)[taken])
            new = found.unique()
            frontier = new[~torch.isin(new, nodes)]
            nodes = torch.cat([nodes, frontier])
        order = torch.argsort(nodes)
        place = order[torch.searchsorted(nodes[order], torch.cat([*sources, *targets]))].view(2, -1)
        n_edges = torch.tensor([len(found) for found in sources]).cumsum(0).tolist()
        return nodes, [(n, place[:, :e]) for n, e in zip(within, n_edges, strict=True)]


def _convolution(kind: str, size: int, width: int) -> nn.Module:
    try:
        with warnings.catch_warnings():  # of what it calls in torch, which is nothing to its users
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch_geometric.nn import GATConv, SAGEConv
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "a knowledge graph needs the package torch-geometric; run: pip install 'recbole-llm[graph]', or set "
            "use_kg: false"
        ) from None
    if kind == "sage":
        return SAGEConv(size, width, aggr="mean")
    if width % _HEADS:
        raise ConfigError(
            f"gat has {_HEADS} heads, which do not divide {width}; choose another branch_size or gnn_size"
        )
    return GATConv(size, width // _HEADS, heads=_HEADS)
