"""LLMRec: the contract in each of its forms, and its parts against written-out sums."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_general import GeneralContract, build_on_checkerboard, dense_graph
from synthetic import SMALL_LLMREC, write_checkerboard

from recbole_llm.errors import ConfigError
from recbole_llm.experiment.data import eval_data, train_loader
from recbole_llm.model.general.llmrec.edges import embedding_edges
from recbole_llm.model.general.rp3beta import walk_weights

SOFTMAX = {"loss": "softmax", "temperature": 0.3}


class TestLLMRec(GeneralContract):
    model = "LLMRec"
    config = SMALL_LLMREC


@pytest.mark.slow
class TestBySoftmaxWithRestoration(GeneralContract):
    model = "LLMRec"
    config = SMALL_LLMREC | SOFTMAX | {"mask_rate": 0.3, "edges": None, "reg_weight": 1e-4}


@pytest.mark.slow
class TestBySampledSoftmaxWithoutProfiles(GeneralContract):
    model = "LLMRec"
    config = SMALL_LLMREC | SOFTMAX | {"num_negatives": 8, "use_profile": False, "temperature": 0.15}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkerboard(tmp_path_factory.mktemp("llmrec"))


def build(folder, **changes):
    return build_on_checkerboard("LLMRec", folder, SMALL_LLMREC | changes)


def test_vectors_written_out(folder):
    _, data, model = build(folder)
    adjacency, n_users = dense_graph(data), data.base.user_num
    to_users, to_items = adjacency[:n_users, n_users:], adjacency[n_users:, :n_users]
    used = torch.from_numpy(data.item_counts > 0)[:, None]
    ego = torch.cat([model.user_embedding.weight, model.item_embedding.weight * used])
    h = (ego + adjacency @ ego + adjacency @ adjacency @ ego) / 3
    users, items = h[:n_users], h[n_users:]
    for branch in model.sides:
        weight = branch.project.weight.T
        if branch.kind == "profile":
            rows = torch.zeros(n_users, model.sides[0].own.shape[1])
            for r in data.split.train:  # without ratings, every item weighs alike
                rows[data.user_ids[r]] += model.sides[0].own[data.item_ids[r]]
            at_items = to_items @ F.normalize(rows, dim=1)
            at_users = to_users @ at_items
        else:
            at_users = to_users @ branch.own
            at_items = torch.where(used, to_items @ at_users, branch.own)
        scale = {"text": 0.5, "image": 0.02, "attribute": 0.2, "profile": 2.8}[branch.kind]
        users = users + scale * F.normalize(at_users @ weight, dim=1)
        items = items + scale * F.normalize(at_items @ weight, dim=1)
    found = model.eval()()
    torch.testing.assert_close(found[0], users, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], items, rtol=1e-4, atol=1e-5)


def test_loss_written_out(folder):
    config, data, model = build(folder, edges=None, prune_rate=0.25, text_loss_weight=0.0, image_loss_weight=0.0)
    batch = next(iter(train_loader(config, data)))
    users, items = model()
    profiles, mood, style = (model.sides[k] for k in (4, 2, 3))
    torch.manual_seed(0)
    negatives = model.draw_negatives(batch["user_id"])

    def kept(u, i, j):
        losses = F.softplus(-(u * (i - j)).sum(1)).sort().values
        return losses[: -(-len(losses) * 3 // 4)].mean()  # the highest quarter is left out

    u, i = batch["user_id"], batch["item_id"]
    wanted = kept(users[u], items[i], items[negatives])
    for branch in (mood, style):
        of_items = branch.of("items", None)
        wanted = wanted + 0.1 * kept(profiles.of("users", u), of_items[i], of_items[negatives])
    ego = [model.user_embedding(u), model.item_embedding(i), model.item_embedding(negatives)]
    wanted = wanted + config["reg_weight"] * sum(e.square().sum() for e in ego) / (2 * len(u))
    torch.manual_seed(0)
    torch.testing.assert_close(sum(model.calculate_loss(batch)), wanted, rtol=1e-5, atol=1e-6)


class TestPruning:
    def test_drops_the_highest_losses(self, folder):
        _, _, model = build(folder, prune_rate=0.5)
        losses = torch.tensor([5.0, 1.0, 4.0, 2.0])
        model.set_stage("train")
        assert model.pruned_mean(losses).item() == 1.5
        model.set_stage("warm_up")
        assert model.pruned_mean(losses).item() == 3.0

    def test_learns_despite_wrong_rows(self, folder):
        """Of losses among which some are hopeless, the mean of the rest is what has a gradient."""
        _, _, model = build(folder, prune_rate=0.25)
        losses = torch.tensor([9.0, 0.1, 0.2, 0.3], requires_grad=True)
        model.pruned_mean(losses).backward()
        assert losses.grad[0] == 0 and (losses.grad[1:] > 0).all()


class TestRestoration:
    def test_masks_a_copy_and_trains_its_decoder(self, folder):
        config, data, model = build(folder, mask_rate=0.5)
        tables = {name: b.clone() for name, b in model.named_buffers() if name.startswith("sides")}
        decoders = {name: p.clone() for name, p in model.restoration.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sum(model.calculate_loss(next(iter(train_loader(config, data))))).backward()
        optimizer.step()
        for name, before in tables.items():
            assert torch.equal(dict(model.named_buffers())[name], before), name
        for name, before in decoders.items():
            assert not torch.equal(dict(model.restoration.named_parameters())[name], before), name

    def test_shift_is_what_masked_features_would_give(self, folder):
        _, data, model = build(folder, mask_rate=0.5)
        adjacency, n_users, branch = dense_graph(data), data.base.user_num, model.sides[0]
        masked = torch.zeros(data.n_items, dtype=torch.bool)
        masked[[3, 5, 9]] = True
        hidden = branch.own.clone()
        hidden[masked] = branch.own[branch.present].mean(0)
        to_users, to_items = adjacency[:n_users, n_users:], adjacency[n_users:, :n_users]
        wanted = to_items @ to_users @ (hidden - branch.own) @ branch.project.weight.T
        found = model.restoration.shift(branch, masked, model.graph, n_users)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


class TestEdges:
    def test_are_the_nearest_and_the_farthest_candidate(self, folder):
        _, data, model = build(folder)
        interactions = data.train.inter_matrix(form="csr").astype(np.float32)
        interactions.data[:] = 1.0
        text, present = model.sides[0].own[:, :8], model.sides[0].present
        edges = {u: (i, j) for u, i, j in embedding_edges(interactions, text, present, 4).tolist()}
        scores = interactions @ walk_weights(interactions, 1.0, 0.6, 0)
        unit = F.normalize(text, dim=1).numpy()
        assert len(edges) == data.base.user_num - 1
        for u, pair in edges.items():
            known = interactions[u].indices
            best = [i for i in np.argsort(-scores[u]) if i and i not in known][:4]
            nearness = {i: float(unit[i] @ unit[known].sum(0)) for i in best}
            assert pair == (max(nearness, key=nearness.get), min(nearness, key=nearness.get))

    def test_of_a_file_are_those_of_the_file(self, folder, tmp_path):
        file = tmp_path / "edges.jsonl"
        file.write_text('{"user_id": "u3", "liked": "i4", "disliked": "i7"}\n', encoding="utf-8")
        _, data, model = build(folder, edges=str(file))
        ids = data.base.field2token_id
        assert model.edges.tolist() == [[ids["user_id"]["u3"], ids["item_id"]["i4"], ids["item_id"]["i7"]]]

    def test_none_are_drawn_without_a_share(self, folder):
        assert not len(build(folder, edge_share=0.0)[2].edges)


def test_a_cold_item_hangs_on_its_features_alone(folder):
    config, data, model = build(folder)
    inputs = eval_data(config, data, "valid").inputs
    cold = torch.from_numpy(np.flatnonzero(data.item_counts == 0)[1:])
    before = model.eval().full_sort_predict(inputs).detach()[:, cold]
    with torch.no_grad():
        model.item_embedding.weight[cold] += 1.0
    assert torch.equal(model.eval().full_sort_predict(inputs)[:, cold], before)
    model.sides[0].items[cold] *= -1.0
    assert not torch.allclose(model.eval().full_sort_predict(inputs)[:, cold], before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "hinge"}, "choose bpr or softmax"),
        ({"item_features": [], "edges": None}, "profiles of users are made from item_features"),
        ({"item_features": [], "use_profile": False}, "edges: embedding chooses by item_features"),
        ({"item_features": [], "visual_facets": [], "item_facets": [], "use_profile": False}, "side information"),
    ],
)
def test_wrong_settings_are_refused(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        build(folder, **changes)
