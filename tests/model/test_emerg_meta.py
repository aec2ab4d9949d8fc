"""EmerGLLMRec under labels: biases, episodes, and what a phase changes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from phased import N_COLD, N_HOT, interactions, phased_settings, write_phased

from recbole_llm.config import build_config
from recbole_llm.data.feature_store import save_feature
from recbole_llm.errors import ConfigError
from recbole_llm.experiment import run
from recbole_llm.experiment.data import build_data, build_model, train_loader
from recbole_llm.model.general.emerg.meta import Fast, ItemAdaptation, LabelledRows, loss_by_item

SMALL = {
    "features": {"text": {"side": "item"}, "mood": {"side": "item"}},
    "item_features": ["text"],
    "visual_facets": [],
    "item_facets": ["mood"],
    "text_dim": 4,
    "graph_content_dim": 4,
    "loss": "bce",
}
META = {"meta": True, "field_dim": 8, "attention_heads": 2, "support_rows": [4, 8], "query_rows": 6, "episode_items": 6}
STAGES = [
    {"name": "warm_up", "groups": {"backbone": 0.01, "side": 0.01}, "epochs": 2},
    {"name": "train", "groups": {"backbone": 0.01, "side": 0.01, "graph": 0.01, "interaction": 0.01}, "epochs": 8},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The phased dataset with two features that tell an item's colour, with noise."""
    folder = write_phased(tmp_path_factory.mktemp("meta"))
    tokens = sorted({row[1] for row in interactions()})
    rng = np.random.default_rng(2)
    colour = np.array([1.0 - 2.0 * (int(token[1:]) % 2) for token in tokens])
    for name in ("text", "mood"):
        rows = np.outer(colour, rng.normal(size=6)) + 0.3 * rng.normal(size=(len(tokens), 6))
        path = folder / "phased" / f"phased.{name}.safetensors"
        save_feature(path, tokens, rows.astype(np.float32), "item_id", {"encoder": "test"})
    return folder


def settings(folder, **changes) -> dict:
    return phased_settings(folder) | SMALL | META | changes


def build(folder, model="EmerGLLMRec", **changes):
    own = settings(folder, **changes)
    if model == "LLMRec":
        own = {key: value for key, value in own.items() if key not in META and key != "graph_content_dim"}
    config = build_config(model, "phased", (), own, ())
    data = build_data(config)
    torch.manual_seed(4)
    return config, data, build_model(config, data)


class TestLabels:
    def test_the_graph_is_of_liked_items(self, folder):
        _, data, model = build(folder, "LLMRec")
        edges = model.graph.to_dense().nonzero().tolist()
        rows = data.split.train[data.labels[data.split.train]]
        n_users = data.base.user_num
        pairs = {(int(data.user_ids[r]), n_users + int(data.item_ids[r])) for r in rows}
        assert {tuple(edge) for edge in edges} == pairs | {(i, u) for u, i in pairs}
        assert len(rows) < len(data.split.train)

    def test_loss_and_scores_written_out(self, folder):
        config, data, model = build(folder, "LLMRec", prune_rate=0.0)
        with torch.no_grad():
            for p in model.biases.parameters():
                torch.nn.init.normal_(p)
        model.set_stage("train")
        batch = next(iter(train_loader(config, data)))
        users, items = batch["user_id"], batch["item_id"]
        assert set(batch["label"].tolist()) == {0.0, 1.0}
        logits = model.eval().predict(batch)
        h_users, h_items = (h[:, :-2] for h in model())
        bias = model.biases.all + model.biases.user[users] + model.biases.item[items]
        torch.testing.assert_close(logits, (h_users[users] * h_items[items]).sum(1) + bias, rtol=1e-4, atol=1e-5)
        wanted = F.binary_cross_entropy_with_logits(logits, batch["label"].float())
        torch.testing.assert_close(model.calculate_loss(batch)[0], wanted, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("loss", ["bpr", "softmax"])
    def test_a_ranking_loss_takes_no_disliked_item_for_a_liked_one(self, folder, loss):
        config, data, model = build(folder, "LLMRec", loss=loss, edges=None)
        batch = next(iter(train_loader(config, data)))
        liked = batch[batch["label"] > 0]
        assert 0 < len(liked) < len(batch)
        losses = []
        for rows in (batch, liked):
            torch.manual_seed(3)
            losses.append(torch.stack(model.calculate_loss(rows)))
        assert torch.equal(*losses)

    @pytest.mark.parametrize("model", ["LLMRec", "EmerGLLMRec"])
    @pytest.mark.parametrize("loss", ["bpr", "softmax", "bce"])
    def test_a_batch_of_disliked_items_gives_finite_losses(self, folder, model, loss):
        config, data, built = build(folder, model, loss=loss, meta=False, edges=None)
        batch = next(iter(train_loader(config, data)))
        total = sum(built.calculate_loss(batch[batch["label"] == 0]))
        total.backward()
        assert torch.isfinite(total)
        assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)

    def test_a_cold_item_has_no_bias_in_the_cold_loss(self, folder):
        config, data, model = build(folder, meta=False, cold_weight=1.0, interaction_every=1)
        batch, losses = next(iter(train_loader(config, data))), []
        for shift in (0.0, 5.0):
            with torch.no_grad():
                model.biases.item += shift
            torch.manual_seed(3)
            losses.append([part.item() for part in model.eval().calculate_loss(batch)])
        assert losses[0][3] == losses[1][3] and losses[0][0] != losses[1][0]

    @pytest.mark.parametrize("changes", [{"use_enhanced_gnn": False}, {"graph": "none"}])
    def test_episodes_need_graphs(self, folder, changes):
        with pytest.raises(ConfigError, match="adapts the items' graphs"):
            build(folder, **changes)

    @pytest.mark.parametrize("changes", [{"loss": "bce"}, {"loss": "bpr", "meta": True}])
    def test_are_needed(self, folder, changes):
        own = settings(folder, **changes) | {"protocol": "rs-full", "phases": None, "threshold": None}
        if changes["loss"] == "bpr":
            own["protocol"] = "emerg-phases"
            own |= {"phases": phased_settings(folder)["phases"], "threshold": {"rating": 4}}
        config = build_config("EmerGLLMRec", "phased", (), own, ())
        with pytest.raises(ConfigError, match="labels"):
            build_model(config, build_data(config))


class TestEpisodes:
    def adaptation(self, **changes) -> ItemAdaptation:
        rng = np.random.default_rng(0)
        items = torch.from_numpy(rng.integers(1, 5, size=200))
        users = torch.arange(200)  # a row's user tells its place in time
        labels = torch.from_numpy(rng.integers(0, 2, size=200)).float()
        own = {"episode_items": 3, "support_rows": [5, 10], "query_rows": 4, "inner_steps": 1}
        return ItemAdaptation(users, items, labels, n_items=6, width=3, n_fields=2, **own | changes)

    def test_query_rows_follow_the_support_in_time(self):
        adaptation = self.adaptation()
        sizes = set()
        for _ in range(20):
            ids, support, query = adaptation.episode()
            assert len(ids.unique()) == 3
            for k, item in enumerate(ids.tolist()):
                own = adaptation.rows_of(torch.tensor([item])).users.tolist()  # all its rows, in time order
                first, then = (rows.users[rows.place == k].tolist() for rows in (support, query))
                assert own[own.index(first[0]) :][: len(first) + 4] == first + then
                sizes.add(len(first))
        assert sizes == {5, 10}

    def test_too_few_ratings_are_refused(self):
        with pytest.raises(ConfigError, match="takes 304 ratings of an item"):
            self.adaptation(support_rows=[300])

    def test_an_adaptation_is_a_step_down_the_loss_of_the_items_own_rows(self):
        adaptation = self.adaptation()
        target = torch.tensor([1.0, -2.0])
        n_rows = torch.tensor([10.0, 30.0])

        def loss(fast: Fast):
            return (fast.bias - target).square() + 0.0 * (fast.identity.sum() + fast.graph.sum())

        fast = adaptation.adapted(loss, n_rows, create_graph=True)
        trust = n_rows / (n_rows + 10.0)  # tau starts at 10, rates at 1
        torch.testing.assert_close(fast.bias, trust * 2 * target)
        assert torch.equal(fast.identity, torch.zeros(2, 3))
        fast.bias.sum().backward()
        assert adaptation.log_tau.grad.abs() > 0 and adaptation.log_rates.grad[1].abs() > 0

    def test_loss_by_item(self):
        rows = LabelledRows(torch.tensor([0, 1, 1]), torch.tensor([3, 4, 5]), torch.tensor([1.0, 0.0, 1.0]))
        scores = torch.tensor([0.3, -0.2, 0.8])
        each = F.binary_cross_entropy_with_logits(scores, rows.labels, reduction="none")
        torch.testing.assert_close(loss_by_item(scores, rows, 2), torch.stack([each[0], each[1:].mean()]))

    def test_gradient_reaches_every_parameter_of_the_branch_through_the_adaptation(self, folder):
        _, _, model = build(folder)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        reached = set()
        for _ in range(3):
            optimizer.zero_grad()
            before, after = model.episode_losses()
            after.backward()  # the loss of the query alone
            reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
            optimizer.step()
        names = {name for name, p in model.named_parameters() if p.requires_grad}
        branch = {name for name in names if name.startswith(("interaction.", "adaptation."))}
        assert {"adaptation.log_rates", "adaptation.log_tau", "interaction.generator.weights.0"} <= branch
        assert branch - reached == set()
        assert not {name for name in names if name.startswith("adaptation.fast")}

    def test_an_adapted_item_has_another_graph(self, folder):
        _, _, model = build(folder)
        with torch.no_grad():
            model.gates += 0.3
        ids, support, _ = model.adaptation.episode()
        users = model._all_users()
        counts = torch.bincount(support.place).float()
        fast = model.adaptation.adapted(
            lambda own: loss_by_item(model._fast_scores(users, ids, own, support), support, len(ids)), counts, False
        )
        before, after = (model.interaction.graphs(model.content[ids], own)[0] for own in (None, fast.graph))
        assert (before - after).abs().amax((1, 2)).min() > 0


class TestPhases:
    @pytest.fixture(scope="class")
    @classmethod
    def result(cls, folder):
        return run("EmerGLLMRec", "phased", settings(folder, stages=STAGES))

    def test_content_tells_cold_items_apart_and_ratings_are_no_step_back(self, result):
        auc = [result.test[f"{phase}/auc"] for phase in ("cold", "warm-a", "warm-b", "warm-c")]
        assert auc[0] > 0.8 and min(auc[1:]) > 0.8, auc

    def test_an_update_moves_the_items_of_its_rows_and_nothing_shared(self, folder):
        from recbole_llm.experiment.phases import updated

        config, data, model = build(folder)
        rows = data.split.open_phases()
        new = rows.warm[0]
        after = updated(config, data.knowing(np.concatenate([data.split.train, new])), model, "warm-a", new)
        items = set(data.item_ids[new].tolist())
        assert len(items) == N_COLD
        moved = after.adaptation.fast["bias"].nonzero()[:, 0].tolist()
        assert set(moved) == items
        for name, p in model.named_parameters():
            if not name.startswith("adaptation.fast"):
                assert torch.equal(dict(after.named_parameters())[name], p), name

    def test_scores_of_a_cold_item_hang_on_its_content_alone(self, folder):
        _, data, model = build(folder)
        with torch.no_grad():
            model.gates += 0.3
            cold = torch.from_numpy(np.flatnonzero(data.item_counts == 0)[1:])
            before = model.eval()()[1][cold]
            model.item_embedding.weight[cold] += 1.0
            model.biases.item[cold] += 1.0
            assert torch.equal(model.eval()()[1][cold], before)
        assert len(cold) == N_COLD + round(N_HOT * 0.25)
