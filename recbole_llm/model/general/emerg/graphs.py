r"""Item-specific feature graphs: a hypernetwork from an item's content to the edges between its fields.

Wang et al. 2024 (EmerG), https://arxiv.org/abs/2407.10112, sect. 4.1. In the released code the graphs are written into
``weight.data``, so that no gradient reaches the hypernetwork; here they stay in the autograd graph.

Shapes: B items, n fields, C content size.
"""

import torch
from torch import Tensor, nn

_EPS = 1e-8


class ItemSpecificGraphGenerator(nn.Module):
    r"""Row m of an item's raw adjacency is :math:`A_i[m, :] = \mathrm{MLP}_m(\mathrm{content}_i)`, one MLP a field.

    The paper feeds :math:`[\mathrm{content}_i; \mathrm{onehot}(m)]`; with an MLP of its own for every field the one-hot
    vector meets the same weights always, so it is the bias of the first layer.

    Args:
        content_size: C. n_fields: n. hidden: width of the hidden layers.
    """

    def __init__(self, content_size: int, n_fields: int, hidden: int) -> None:
        super().__init__()
        sizes = [(content_size, hidden), (hidden, n_fields)]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(n_fields, a, b)) for a, b in sizes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(n_fields, 1, b)) for _, b in sizes)
        for weight in self.weights:
            for of_field in weight:
                nn.init.xavier_uniform_(of_field)
        nn.init.uniform_(self.biases[-1], -1.0, 1.0)  # else all entries start alike where the content says little

    def forward(self, content: Tensor) -> Tensor:
        """Raw adjacencies, any range. content [B, C] -> [B, n, n]."""
        x = content
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias  # [n, B, *]
            if k + 1 < len(self.weights):
                x = torch.relu(x)
        return x.transpose(0, 1)


class SharedGraph(nn.Module):
    """One learned raw adjacency for all items: what is left of EmerG when graphs are not the item's own."""

    def __init__(self, n_fields: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.rand(n_fields, n_fields))

    def forward(self, content: Tensor) -> Tensor:
        """content [B, C] -> [B, n, n]."""
        return self.raw.expand(len(content), -1, -1)


def minmax(a: Tensor) -> Tensor:
    """Each matrix to [0, 1]. [B, n, n] -> [B, n, n]."""
    entries = a.flatten(1)
    low, high = entries.min(1, keepdim=True).values, entries.max(1, keepdim=True).values
    return ((entries - low) / (high - low + _EPS)).view_as(a)


def refine(raw: Tensor, n_layers: int) -> list[Tensor]:
    r"""The graphs of all layers from a raw adjacency (EmerG, eq. 5-7).

    Brought to [0, 1], diagonal 1, the :math:`n^2/2` largest entries kept, made symmetric: :math:`\bar A = A^{(1)}`;
    then :math:`A^{(l)} = \mathrm{minmax}(A^{(l-1)} \bar A) \odot 1[\bar A > 0]`. Which entries are kept is no
    function of the parameters that could be differentiated; the kept ones are.

    Args:
        raw: [B, n, n] float32. n_layers: >= 1.
    Returns:
        ``n_layers`` symmetric adjacencies [B, n, n] in [0, 1].
    """
    n = raw.shape[1]
    eye = torch.eye(n, device=raw.device, dtype=raw.dtype)
    a = minmax(raw) * (1 - eye) + eye
    order = (a.detach() + eye).flatten(1)  # the largest entry of others is 1 too: the diagonal is kept in any case
    kept = order.topk(max(n, n * n // 2), dim=1, sorted=False).indices
    a = a * torch.zeros_like(order).scatter_(1, kept, 1.0).view_as(a)
    first = (a + a.transpose(1, 2)) / 2
    edges = (first > 0).to(a.dtype)
    graphs = [first]
    for _ in range(n_layers - 1):
        graphs.append(minmax(graphs[-1] @ first) * edges)
    return graphs


def graph_penalty(graph: Tensor, fields: Tensor, present: Tensor) -> Tensor:
    r"""Sparsity and smoothness of first-layer graphs: :math:`\mathrm{mean}_{mn} A_{mn} (1 + \|f_m - f_n\|^2)`.

    Over the pairs of different fields that the item has: edges should be few, and lie between fields that agree.

    Args:
        graph: [B, n, n]. fields: rows of length :math:`\sqrt D` [B, n, D]. present: [B, n] bool.
    """
    pairs = (present[:, :, None] & present[:, None, :]).to(graph.dtype)
    pairs = pairs * (1 - torch.eye(graph.shape[1], device=graph.device))
    cosine = fields @ fields.transpose(1, 2) / fields.shape[-1]
    return (graph * pairs * (3 - 2 * cosine)).sum() / pairs.sum().clamp(min=1.0)
