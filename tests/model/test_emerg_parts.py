"""The parts of EmerGLLMRec by themselves: graphs, layers, attention, readout, against naive loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recbole_llm.model.general.emerg.fields import as_if_cold
from recbole_llm.model.general.emerg.graphs import ItemSpecificGraphGenerator, graph_penalty, refine
from recbole_llm.model.general.emerg.interaction import FieldInteraction
from recbole_llm.model.general.emerg.layers import EnhancedGNNLayer, FieldReadout, MultiHeadSelfAttention


def rescaled(a: np.ndarray) -> np.ndarray:
    return (a - a.min()) / (a.max() - a.min())


@pytest.mark.parametrize("n", [2, 5, 8])
def test_refine_by_a_loop(n):
    raw = torch.randn(6, n, n, dtype=torch.float64)
    found = refine(raw, 3)
    for item, a in enumerate(raw.numpy()):
        a = rescaled(a)
        np.fill_diagonal(a, 1.0)
        order = np.argsort(-(a + np.eye(n)).ravel(), kind="stable")
        a.ravel()[order[max(n, n * n // 2) :]] = 0.0
        first = (a + a.T) / 2
        layer = first
        np.testing.assert_allclose(found[0][item].numpy(), first, rtol=1e-6)
        for graph in found[1:]:
            layer = rescaled(layer @ first) * (first > 0)
            np.testing.assert_allclose(graph[item].numpy(), layer, rtol=1e-6, atol=1e-9)
    for graph in found:
        assert graph.min() >= 0 and graph.max() <= 1
    assert torch.equal(found[0], found[0].transpose(1, 2))
    assert (found[0].diagonal(dim1=1, dim2=2) == 1).all()


def test_the_hypernetwork_is_an_mlp_a_field():
    generator = ItemSpecificGraphGenerator(6, 4, 5)
    content = torch.randn(3, 6)
    found = generator(content)
    for m in range(4):
        hidden = torch.relu(content @ generator.weights[0][m] + generator.biases[0][m])
        torch.testing.assert_close(found[:, m], hidden @ generator.weights[1][m] + generator.biases[1][m])


def test_gradient_reaches_the_hypernetwork_through_the_graphs():
    generator = ItemSpecificGraphGenerator(6, 4, 5)
    sum(graph.square().sum() for graph in refine(generator(torch.randn(8, 6)), 2)).backward()
    assert all(p.grad.abs().sum() > 0 for p in generator.parameters())


class TestLayers:
    @pytest.mark.parametrize("scale", [0.5, 3.0])
    def test_each_product_is_one_order_more(self, scale):
        """Fields times c: what l layers give is a product of l + 1 fields, so it is times c to the l + 1."""
        fields, graph = torch.randn(4, 5, 8), torch.rand(4, 5, 5)
        present = torch.ones(4, 5, dtype=torch.bool)
        h, scaled = fields, scale * fields
        for order in (2, 3, 4):
            layer = EnhancedGNNLayer(8, "product", last=order == 4)
            h, scaled = layer(graph, fields, h, present), layer(graph, scale * fields, scaled, present)
            torch.testing.assert_close(scaled, h * scale**order, rtol=1e-4, atol=1e-5)

    def test_the_residual_has_no_order_but_the_first(self):
        fields, graph, present = torch.randn(4, 5, 8), torch.rand(4, 5, 5), torch.ones(4, 5, dtype=torch.bool)
        layer = EnhancedGNNLayer(8, "residual", last=False)
        once, twice = layer(graph, fields, fields, present), layer(graph, 2 * fields, 2 * fields, present)
        torch.testing.assert_close(twice, 2 * once)

    def test_by_a_loop(self):
        fields, h, graph = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.rand(2, 3, 3)
        present = torch.tensor([[True, True, True], [True, False, True]])
        h = h * present[:, :, None]
        layer = EnhancedGNNLayer(4, "product", last=False)
        found = layer(graph, fields, h, present)
        for b in range(2):
            for m in range(3):
                there = [k for k in range(3) if present[b, k]]
                total = sum(graph[b, m, k] for k in there)
                a = sum(graph[b, m, k] / total * fields[b, k] for k in there)
                wanted = F.leaky_relu(layer.linear.weight @ a) * h[b, m] * present[b, m]
                torch.testing.assert_close(found[b, m], wanted)


def test_attention_is_torchs():
    attention = MultiHeadSelfAttention(12, 3, 0.0)
    orders = torch.randn(5, 4, 12)
    q, k, v = (x.view(5, 4, 3, 4).transpose(1, 2) for x in attention.qkv(orders).chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(5, 4, 12)
    torch.testing.assert_close(attention(orders), (orders + attention.out(mixed)).sum(1), rtol=1e-5, atol=1e-5)


def test_readout_weighs_the_fields_that_are_there():
    readout = FieldReadout(4, 3, 6)
    h = torch.randn(2, 2, 3, 4)
    present = torch.tensor([[True, False, True], [False, False, False]])
    h = h * present[:, None, :, None]
    found = readout(list(h.unbind(1)), present)
    gates = readout.gate(F.relu(h.sum(1)).flatten(1))[0, [0, 2]].softmax(0)
    torch.testing.assert_close(found[0], gates[0] * h[0, :, 0] + gates[1] * h[0, :, 2])
    assert torch.equal(found[1], torch.zeros(2, 4))


def interaction(**changes) -> FieldInteraction:
    settings = {
        "width": 8, "field_dim": 6, "n_fields": 4, "content_size": 5, "graph": "item", "gnn_layers": 2,
        "integration": "product", "attention_heads": 2, "dropout": 0.0, "hidden": 6, "checkpointing": False,
    }  # fmt: skip
    return FieldInteraction(**settings | changes).eval()


@pytest.mark.parametrize("graph", ["item", "shared", "none"])
def test_what_an_item_does_not_have_plays_no_part(graph):
    model, content = interaction(graph=graph), torch.randn(3, 5)
    fields, names = torch.randn(3, 4, 8), ["id", "user", "text", "mood"]
    known, present = as_if_cold(fields, torch.ones(3, 4, dtype=torch.bool), names)
    assert present.tolist() == [[False, False, True, True]] * 3
    other, _ = as_if_cold(torch.cat([torch.randn(3, 2, 8), fields[:, 2:]], 1), present, names)
    known, other, fields = (model.narrowed(x) for x in (known, other, fields))
    graphs = model.graphs(content)
    torch.testing.assert_close(model(known, present, graphs), model(other, present, graphs))
    assert not torch.allclose(model(known, present, graphs), model(fields, torch.ones_like(present), graphs))


def test_an_items_graph_decides_what_its_fields_are_together():
    model, fields, present = interaction(), torch.randn(1, 4, 8).expand(2, -1, -1), torch.ones(2, 4, dtype=torch.bool)
    z = model(model.narrowed(fields), present, model.graphs(torch.randn(2, 5)))
    assert not torch.allclose(z[0], z[1])
    alone = interaction(graph="none")
    z = alone(alone.narrowed(fields), present, alone.graphs(torch.randn(2, 5)))
    torch.testing.assert_close(z[0], z[1])


def test_penalty_by_a_loop():
    graph, fields = torch.rand(2, 3, 3), F.normalize(torch.randn(2, 3, 4), dim=-1)
    present = torch.tensor([[True, True, True], [True, False, True]])
    total, n = 0.0, 0
    for b in range(2):
        for m in range(3):
            for k in range(3):
                if m != k and present[b, m] and present[b, k]:
                    total += graph[b, m, k] * (1 + (fields[b, m] - fields[b, k]).square().sum())
                    n += 1
    torch.testing.assert_close(graph_penalty(graph, 2 * fields, present), total / n)  # 2: of length sqrt(D)
