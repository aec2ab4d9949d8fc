"""LLMKGNews: the contract on articles of two colours, its parts by loops, what must not reach it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_general import GeneralContract
from recbole.data.interaction import Interaction
from synthetic import BOARD_TOKENS, checkerboard_settings

from recbole_llm.config import build_config
from recbole_llm.data.feature_store import save_feature
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.experiment.data import build_data, eval_data, train_loader
from recbole_llm.model.sequential.llmkg_news.fusion import FUSIONS, ClickAttention, Fusion
from recbole_llm.model.sequential.llmkg_news.graph import EntityGraph
from recbole_llm.model.sequential.llmkg_news.losses import agreement, listwise, pointwise

SMALL = {
    "item_features": ["content"], "branch_size": 16, "id_size": 8, "attention_size": 8, "gnn_size": 8, "dropout": 0.0,
    "MAX_ITEM_LIST_LENGTH": 8, "features": {"content": {"side": "item", "missing": "learned"}},
}  # fmt: skip


def write_graph(folder: Path, tokens=BOARD_TOKENS) -> None:
    """Articles of a colour name its entity, and each one of its own; ``.link`` also has an article nobody reads."""
    home = folder / "checkerboard"
    colours = ["even", "odd"]
    lines = [f"{t}\tcolour\t{colours[int(t[1:]) % 2]}" for t in tokens] + [f"{t}\tnames\tx{t}" for t in tokens]
    (home / "checkerboard.kg").write_text(
        "head_id:token\trelation_id:token\ttail_id:token\n" + "\n".join(["unread\tcolour\teven", *lines]) + "\n"
    )
    links = "\n".join(f"{t}\t{t}" for t in [*tokens, "unread"])
    (home / "checkerboard.link").write_text("item_id:token\tentity_id:token\n" + links + "\n")


class TestLLMKGNews(GeneralContract):
    model = "LLMKGNews"
    config = SMALL
    scores_cold_items = True
    learning_rate = 0.003

    @classmethod
    def write(cls, folder, file_order=None):
        super().write(folder, file_order=file_order)
        write_graph(folder, BOARD_TOKENS if file_order is None else [BOARD_TOKENS[k] for k in file_order])
        return folder

    def test_held_out_items_do_not_reach_the_model(self, folder, tmp_path):
        from synthetic import write_checkerboard

        other = write_checkerboard(tmp_path, other_held_out=True)
        write_graph(other)
        self.check_that_held_out_items_do_not_reach_the_model(folder, other)

    def test_unknown_users_and_items_get_finite_scores(self, fitted):
        _, data, model, _ = fitted
        n = data.base.user_num
        nobody = {"user_id": torch.arange(n), "item_id_list": torch.zeros(n, 8, dtype=torch.long)}
        everybody = Interaction(nobody | {"item_length": torch.ones(n, dtype=torch.long)})
        with torch.no_grad():
            assert torch.isfinite(model.full_sort_predict(everybody)).all()

    def test_padding_changes_nothing(self, fitted):
        config, data, model, _ = fitted
        inputs = eval_data(config, data, "valid").inputs
        short = Interaction({name: inputs[name].clone() for name in ("user_id", "item_id_list", "item_length")})
        short.interaction["item_id_list"][:, 5:] = 0
        cut = Interaction(short.interaction | {"item_id_list": short["item_id_list"][:, :5]})
        with torch.no_grad():
            torch.testing.assert_close(model.full_sort_predict(short), model.full_sort_predict(cut))

    def test_an_article_that_nobody_clicked_has_no_identity(self, fitted):
        _, data, model, _ = fitted
        unseen = torch.from_numpy(np.flatnonzero(data.item_counts == 0))
        before = model.train().fused(unseen, model.parts(unseen))
        with torch.no_grad():
            kept = model.item_embedding.weight.clone()
            model.item_embedding.weight.add_(1.0)
            after = model.fused(unseen, model.parts(unseen))
            model.item_embedding.weight.copy_(kept)
        model.eval()
        torch.testing.assert_close(before, after)
        assert not before[0].any()  # [PAD]


@pytest.mark.slow
class TestByLabelsAndSamples(TestLLMKGNews):
    """Focal loss, attention over branches, GAT over a sampled graph, hard negatives do not apply."""

    config = SMALL | {"loss": "focal", "fusion": "attention", "gnn": "gat", "whole_graph_below": 0, "fanout": 30}
    loss_falls_to = 0.9


@pytest.mark.slow
class TestGateWithEverything(TestLLMKGNews):
    config = SMALL | {"fusion": "gate", "negative_pool": 8, "contrastive_weight": 0.1, "n_negatives": 3}


# ---------------------------------------------------------------------- graph


def neighbours_of_a_random_graph(n_nodes: int = 30, n_edges: int = 60):
    rng = np.random.default_rng(2)
    pairs = {tuple(sorted(p)) for p in rng.integers(1, n_nodes, (n_edges, 2)).tolist() if p[0] != p[1]}
    lists = [sorted({b for a, b in pairs if a == v} | {a for a, b in pairs if b == v}) for v in range(n_nodes)]
    indptr = torch.tensor([0, *np.cumsum([len(x) for x in lists])])
    return indptr, torch.tensor([v for x in lists for v in x]), lists


@pytest.mark.parametrize("kind", ["sage", "gat"])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_sampled_without_loss_the_graph_is_the_whole_one(kind, n_layers):
    indptr, indices, lists = neighbours_of_a_random_graph()
    text, entities = torch.randn(12, 5), torch.randn(18, 4)
    made = []
    for whole_below in (0, 1000):
        torch.manual_seed(1)
        made.append(
            EntityGraph(
                indptr, indices, 12, text, entities, kind, n_layers, 8, 8, 0.0, max(map(len, lists)), whole_below
            )
        )
    sampled, whole = made
    assert whole.whole and not sampled.whole
    ids = torch.tensor([7, 2, 11])
    torch.testing.assert_close(sampled(ids), whole(ids))


def test_scores_do_not_hang_on_who_is_drawn():
    indptr, indices, _ = neighbours_of_a_random_graph(30, 300)
    model, ids = EntityGraph(indptr, indices, 12, None, None, "sage", 2, 4, 4, 0.0, 1, 0), torch.arange(1, 12)
    with torch.no_grad():
        assert not torch.equal(model(ids), model(ids))  # sampled in training
        assert torch.equal(model.eval()(ids), model.items()[ids])


def test_sage_by_a_loop():
    indptr, indices, lists = neighbours_of_a_random_graph()
    model = EntityGraph(indptr, indices, 12, None, None, "sage", 2, 6, 4, 0.0, 3, 1000)
    with torch.no_grad():
        model.item_start.copy_(torch.randn(6))
        x = torch.cat([model.item_start.expand(12, -1), model.entity_start.weight])
        for k, layer in enumerate(model.layers):
            x = torch.relu(x) if k else x
            means = [x[n].mean(0) if n else torch.zeros(x.shape[1]) for n in lists]
            x = torch.stack([layer.lin_l(m) + layer.lin_r(row) for m, row in zip(means, x, strict=True)])
        torch.testing.assert_close(model(torch.arange(12)), x[:12])


def test_no_more_neighbours_than_the_fanout_are_read():
    indptr, indices, lists = neighbours_of_a_random_graph(30, 300)
    model = EntityGraph(indptr, indices, 12, None, None, "sage", 1, 4, 4, 0.0, 3, 0)
    ids = torch.arange(1, 12)
    nodes, [(n_wanted, (sources, targets))] = model.sampled(ids)
    assert n_wanted == len(ids)
    assert nodes[: len(ids)].tolist() == ids.tolist() and len(nodes.unique()) == len(nodes)
    assert torch.bincount(targets, minlength=11)[:11].tolist() == [min(3, len(lists[v])) for v in ids]
    assert all(nodes[s] in lists[nodes[t]] for s, t in zip(sources, targets, strict=True))


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if kind != "concat"])
def test_branches_that_are_absent_weigh_nothing(kind):
    fusion = Fusion(kind, 6, 3, 8, 0.0).eval()
    present = torch.tensor([[True, False, True], [False, False, False]])
    parts = torch.rand(2, 3, 6) * present[:, :, None]
    weights = fusion.weights(parts, present).detach()
    assert weights[0, 1] == 0 and weights[0].sum() == pytest.approx(1.0) and not weights[1].any()
    torch.testing.assert_close(fusion(parts, present)[0], weights[0] @ parts[0])


def test_clicks_by_a_loop():
    attention, articles = ClickAttention(4, 3), torch.randn(6, 4)
    clicks = torch.tensor([[4, 1, 0, 0, 0], [0] * 5])
    real = torch.tensor([[True, True, False, False, False], [False] * 5])
    found = attention(articles, clicks, real)
    a, b = articles[4], articles[1]
    weights = torch.stack([attention.outer(torch.tanh(attention.inner(x)))[0] for x in (a, b)]).softmax(0)
    torch.testing.assert_close(found[0], weights[0] * a + weights[1] * b)
    assert not found[1].any()


def test_losses_by_hand():
    clicked, others = torch.tensor([1.0]), torch.tensor([[0.5, 2.0, -1.0]])
    exps = torch.tensor([1.0, 2.0, 0.5]).exp()
    torch.testing.assert_close(listwise(clicked, others, 2), -(exps[0] / exps.sum()).log())  # the two hardest
    scores, labels = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    p = scores.sigmoid()
    right = torch.where(labels > 0, p, 1 - p)
    weight = torch.where(labels > 0, 3.0, 1.0)
    torch.testing.assert_close(pointwise(scores, labels, "bce", 3.0, 2.0), -(weight * right.log()).mean())
    focal = -(weight * (1 - right) ** 2 * right.log()).mean()
    torch.testing.assert_close(pointwise(scores, labels, "focal", 3.0, 2.0), focal)
    a, b = F.normalize(torch.randn(4, 3), dim=-1), torch.eye(4)[:, :3]
    assert agreement(a, a, 0.01) < agreement(a, b, 0.01)


# ---------------------------------------------------------------------- model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return TestLLMKGNews.write(tmp_path_factory.mktemp("llmkg"))


def build(folder, **changes):
    return TestLLMKGNews.build(folder, **changes)


def test_a_missing_text_is_a_learned_vector(folder, tmp_path):
    TestLLMKGNews.write(tmp_path, file_order=np.arange(2, 26))  # i0 and i1 have no row
    config, data, model = build(tmp_path)
    ids = torch.tensor([data.base.field2token_id["item_id"][t] for t in ("i0", "i1", "i2")])
    before = model.parts(ids).detach()
    with torch.no_grad():
        model.missing_text += 1.0
    after, place = model.parts(ids).detach(), model.names.index("text")
    assert not torch.allclose(before[:2, place], after[:2, place])
    assert torch.equal(before[2, place], after[2, place])
    assert build(folder)[2].missing_text is None


def test_given_vectors_of_entities_go_by_token(folder, tmp_path):
    TestLLMKGNews.write(tmp_path)
    rows = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    path = tmp_path / "checkerboard" / "checkerboard.entity.safetensors"
    save_feature(path, ["odd", "even"], rows, "entity_id", {"encoder": "test"})
    features = SMALL["features"] | {"entity": {"side": "entity", "missing": "zero"}}
    _, data, model = build(tmp_path, features=features, entity_features=["entity"])
    given = dict(zip(data.knowledge.entities, model.graph.given.tolist(), strict=True))
    assert given.pop("odd") == pytest.approx([0.6, 0.8]) and given.pop("even") == pytest.approx([0.0, 1.0])
    assert not np.any(list(given.values()))


def test_the_category_is_learnt(tmp_path):
    TestLLMKGNews.write(tmp_path)
    home = tmp_path / "checkerboard"
    lines = [f"{t}\t{'even' if int(t[1:]) % 2 == 0 else 'odd'}" for t in BOARD_TOKENS]
    (home / "checkerboard.item").write_text("item_id:token\tcategory:token\n" + "\n".join(lines) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "category"]}
    config, data, model = build(tmp_path, category_weight=0.5, load_col=columns)
    first = model.calculate_loss(next(iter(train_loader(config, data))))
    assert len(first) == 2
    TestLLMKGNews.fit(config, data, model, 40)
    assert model.calculate_loss(next(iter(train_loader(config, data))))[1] < 0.3 * first[1]


def test_rows_without_a_required_feature_are_not_learnt(tmp_path):
    TestLLMKGNews.write(tmp_path, file_order=np.arange(2, 26))
    config, data, _ = build(tmp_path, require_features=["content"])
    lacking = [data.base.field2token_id["item_id"][t] for t in ("i0", "i1")]
    batches = list(train_loader(config, data))
    assert not np.isin(np.concatenate([b["item_id"] for b in batches]), lacking).any()
    assert np.isin(data.item_ids[data.split.train], lacking).any()
    with pytest.raises(ConfigError, match="require_features names 'theme', which the model does not load"):
        train_loader(*build(tmp_path, require_features=["theme"])[:2])


def test_under_bce_scores_are_probabilities_and_start_at_the_base_rate(folder):
    config, data, model = build(folder, loss="bce", n_negatives=4)
    inputs = eval_data(config, data, "valid").inputs
    scores = model.eval().full_sort_predict(inputs)
    assert model.predicts_probabilities and ((scores > 0) & (scores < 1)).all()
    assert model.bias.item() == pytest.approx(np.log(0.2 / 0.8))
    assert model.describe() == "score: scale 10.00, bias -1.39, so p in [0.000, 1.000]"
    assert not build(folder)[2].predicts_probabilities


def test_the_placebo_gives_every_article_anothers_edges(folder):
    graph = build(folder)[1].knowledge
    other = build(folder, placebo="shuffle")[1].knowledge
    before, after = (set(zip(g.heads.tolist(), g.tails.tolist(), strict=True)) for g in (graph, other))
    assert before != after and len(before) == len(after) and graph.entities == other.entities
    features = (build(folder, placebo=kind)[1].features["content"].matrix for kind in ("none", "shuffle"))
    true, shuffled = features
    where = [int(np.flatnonzero((true == row).all(1))[0]) for row in shuffled]  # text and edges go together
    moved = {(where.index(h), t) for h, t in before if h < graph.n_items}
    assert moved == {(h, t) for h, t in after if h < graph.n_items}


def test_an_articles_edges_are_those_of_its_token(folder):
    _, data, _ = build(folder)
    graph, tokens = data.knowledge, data.base.field2id_token["item_id"]
    names = [*tokens.tolist(), *graph.entities]
    triples = {(names[h], graph.relation_names[r], names[t])
               for h, r, t in zip(graph.heads, graph.relations, graph.tails, strict=True)}  # fmt: skip
    wanted = {(t, "colour", ["even", "odd"][int(t[1:]) % 2]) for t in BOARD_TOKENS} | {("unread", "colour", "even")}
    assert triples == wanted | {(t, "names", f"x{t}") for t in BOARD_TOKENS}
    assert graph.n_linked == len(BOARD_TOKENS) and "unread" in graph.entities  # nobody reads it: an entity like others
    indptr, indices = graph.neighbours()
    for v in range(graph.n_nodes):
        ends = zip(graph.heads, graph.tails, strict=True)
        wanted = sorted(
            {b for a, b in ends if a == v} | {a for a, b in zip(graph.heads, graph.tails, strict=True) if b == v}
        )
        assert indices[indptr[v] : indptr[v + 1]].tolist() == wanted
    assert indptr[1] == 0  # [PAD] has none


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"use_id": False, "use_text": False, "use_kg": False}, ConfigError, "an article has no branch"),
        ({"item_features": []}, ConfigError, "use_text reads item_features, but there are none"),
        ({"fusion": "sum"}, ConfigError, "fusion is 'sum'; choose concat, attention, gate"),
        ({"gnn": "gcn"}, ConfigError, "gnn is 'gcn'; choose sage or gat"),
        ({"gnn": "gat", "branch_size": 18}, ConfigError, "gat has 4 heads, which do not divide 18"),
        ({"loss": "hinge"}, ConfigError, "loss is 'hinge'; choose listwise, bce, focal"),
        ({"category_weight": 0.1}, ConfigError, "category_weight needs the column 'category'"),
        ({"placebo": "popularity"}, ConfigError, "placebo: popularity is one of features, not of a graph"),
    ],
)
def test_what_cannot_be_meant_is_said(folder, changes, error, message):
    with pytest.raises(error, match=message):
        build(folder, **changes)


def test_a_graph_that_is_not_there_is_said(folder, tmp_path):
    from synthetic import write_checkerboard

    write_checkerboard(tmp_path)
    with pytest.raises(DataError, match=r"checkerboard.kg does not exist; a model with a knowledge graph needs it"):
        build(tmp_path)
    write_graph(tmp_path, ["z1", "z2"])
    with pytest.raises(DataError, match="no triple of checkerboard.kg touches an item"):
        build(tmp_path)
    assert build_data(
        build_config("LLMKGNews", "checkerboard", (), checkerboard_settings(tmp_path) | SMALL | {"use_kg": False}, ())
    )
