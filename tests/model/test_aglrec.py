"""AGLRec: the contract in each of its forms, and its parts against written-out sums."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_general import GeneralContract, dense_graph
from synthetic import BOARD_TOKENS, checkerboard_settings, write_checkerboard

from recbole_llm.comparison.plan import read_ablation
from recbole_llm.config import build_config
from recbole_llm.data.feature_store import save_feature
from recbole_llm.errors import ConfigError
from recbole_llm.experiment import run
from recbole_llm.experiment.data import build_data, build_model, eval_data, train_loader
from recbole_llm.model.general.aglrec_text import ContentPath, item_texts

SMALL = {"text_dim": 8, "cold_dim": 8, "temperature": 0.1, "num_negatives": 0}


class TestAGLRec(GeneralContract):
    model = "AGLRec"
    config = SMALL
    scores_cold_items = True


@pytest.mark.slow
class TestByBprAndConcatenation(GeneralContract):
    model = "AGLRec"
    config = SMALL | {"loss": "bpr", "fusion_mode": "concat", "fusion_dim": 6, "reg_weight": 1e-4, "temperature": 0.3}
    scores_cold_items = True


@pytest.mark.slow
class TestWithSampledNegativesAndWithoutTexts(GeneralContract):
    model = "AGLRec"
    off = {"use_item_llm": False, "use_user_llm": False, "text_init": False, "cold_path": False}
    config = SMALL | {"num_negatives": 8} | off


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkerboard(tmp_path_factory.mktemp("aglrec"))


def build(folder, **changes):
    config = build_config("AGLRec", "checkerboard", (), checkerboard_settings(folder) | SMALL | changes, ())
    data = build_data(config)
    torch.manual_seed(4)
    return config, data, build_model(config, data)


def scores_of(config, data, model) -> torch.Tensor:
    with torch.no_grad():
        inputs = eval_data(config, data, "valid").inputs
        return model.eval().full_sort_predict(inputs).view(len(inputs), -1)


@pytest.mark.parametrize("mode", ["sum", "concat"])
@pytest.mark.parametrize("fusion_dim", [None, 5])
def test_at_step_0_texts_change_nothing(folder, mode, fusion_dim):
    alike = {"fusion_mode": mode, "fusion_dim": fusion_dim, "cold_path": False}
    with_texts = build(folder, **alike)
    without = build(folder, use_item_llm=False, use_user_llm=False, **alike)
    for name in ("user_embedding", "item_embedding"):
        getattr(without[2], name).weight.data = getattr(with_texts[2], name).weight.data
    torch.testing.assert_close(scores_of(*with_texts), scores_of(*without))


def test_scores_written_out(folder):
    config, data, model = build(folder, cold_path=False)
    for p in model.parameters():  # leave the zeros behind
        torch.nn.init.normal_(p, std=0.5)
    adjacency, n_users = dense_graph(data), data.base.user_num
    text, weight = model.item_fusion.rows, model.item_fusion.project.weight
    user_text = torch.zeros(n_users, text.shape[1])
    for r in data.split.train:  # without ratings, every item weighs alike
        user_text[data.user_ids[r]] += text[data.item_ids[r]]
    user_text = F.normalize(user_text, dim=1)
    users = model.user_embedding.weight + user_text @ model.user_fusion.project.weight.T
    z = torch.cat([users, model.item_embedding.weight + text @ weight.T])
    h = (z + adjacency @ z + adjacency @ adjacency @ z) / 3
    h_users, h_items = F.normalize(h[:n_users], dim=1), F.normalize(h[n_users:], dim=1)
    task = eval_data(config, data, "valid").tasks[0]
    wanted = (h_users @ h_items.T)[task.user_ids].detach()
    torch.testing.assert_close(scores_of(config, data, model), wanted, rtol=1e-4, atol=1e-5)
    # and the losses
    batch = next(iter(train_loader(config, data)))
    logits = h_users[batch["user_id"]] @ h_items[1:].T / 0.1
    loss = F.cross_entropy(logits, batch["item_id"] - 1)
    torch.testing.assert_close(sum(model.train().calculate_loss(batch)), loss, rtol=1e-4, atol=1e-5)


def test_a_cold_item_hangs_on_its_text_alone(folder):
    config, data, model = build(folder)
    cold = torch.from_numpy(np.flatnonzero(data.item_counts == 0)[1:])
    assert len(cold) == 2
    before = scores_of(config, data, model)[:, cold]
    with torch.no_grad():
        model.item_embedding.weight[cold] += 1.0
    model.eval()
    assert torch.equal(scores_of(config, data, model)[:, cold], before)
    model.content.smoother[:2] = model.content.smoother[:2].flip(0)
    model.eval()
    torch.testing.assert_close(scores_of(config, data, model)[:, cold], before.flip(1))
    assert not torch.allclose(before, before.flip(1))


def test_the_path_of_cold_items_against_a_library(folder):
    from sklearn.kernel_ridge import KernelRidge

    config, data, model = build(folder, cold_reg_weight=0.7, cold_gamma=0.9, cold_scale=0.6)
    _, items = model.propagated()
    unit = F.normalize(items, dim=1).detach().numpy()
    counts, content = data.item_counts, model.content
    known, cold = content.known.numpy(), content.cold.numpy()
    assert (known == (counts > 0)).all() and cold.sum() == 2
    texts = item_texts(config, data.train)[1].numpy()
    oracle = KernelRidge(alpha=0.7, kernel="rbf", gamma=0.9)
    oracle.fit(texts[known], unit[known] * np.log1p(counts[known])[:, None])
    wanted = 0.6 * oracle.predict(texts[cold]) / np.linalg.norm(oracle.predict(texts[known]), axis=1).mean()
    found = model()[1].detach().numpy()
    np.testing.assert_allclose(found[cold], wanted, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found[~cold], unit[~cold])


def test_of_many_items_the_most_used_are_fitted(monkeypatch):
    monkeypatch.setattr("recbole_llm.model.general.aglrec_text._FITTED", 4)
    rows, counts = F.normalize(torch.randn(12, 3), dim=1), torch.tensor([0, 5, 1, 9, 7, 0, 2, 8, 1, 0, 1, 1])
    path, vectors = ContentPath(rows, counts >= 0, counts, 0.1, 1.0, 1.0), torch.randn(12, 2)
    assert path.known.nonzero()[:, 0].tolist() == [1, 3, 4, 7]
    found, others = path(vectors), (counts > 0) & ~path.known
    assert torch.equal(found[others], vectors[others])
    assert not torch.equal(found[5], vectors[5]) and not torch.equal(found[9], vectors[9])


def test_a_kernel_tells_apart_what_no_direction_does():
    """Both ends of a line are liked by one user, its middle by the other: cold texts near an end go to the first."""
    angle = np.linspace(-1.2, 1.2, 25)
    rows = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32))
    rows[0] = 0.0
    present = torch.arange(25) > 0
    counts = present.long()
    counts[[2, 12, 23]] = 0
    likes = torch.from_numpy(np.stack([np.abs(angle) > 0.6, np.abs(angle) <= 0.6], 1).astype(np.float32))
    found = ContentPath(rows, present, counts, 0.1, 5.0, 1.0)(likes)[[2, 12, 23]]
    assert (found.argmax(1) == torch.tensor([0, 1, 0])).all()
    linear = ContentPath(rows, present, counts, 0.1, 1e-4, 1.0)(likes)[[2, 12, 23]]
    assert not (linear.argmax(1) == torch.tensor([0, 1, 0])).all()


def test_negatives_of_bpr_are_no_training_items(folder):
    _, data, model = build(folder, loss="bpr")
    users = torch.from_numpy(data.user_ids[data.split.train]).repeat(20)
    drawn = model.draw_negatives(users)
    pairs = set(zip(data.user_ids[data.split.train].tolist(), data.item_ids[data.split.train].tolist(), strict=True))
    assert not pairs & set(zip(users.tolist(), drawn.tolist(), strict=True))
    assert set(drawn.tolist()) == set(range(1, data.n_items))  # every item, [PAD] never


class TestMissingTexts:
    def test_share_a_learned_vector(self, tmp_path):
        without = [0, 3, 7]
        folder = write_checkerboard(tmp_path, file_order=[k for k in range(len(BOARD_TOKENS)) if k not in without])
        config, data, model = build(folder)
        ids = [data.base.field2token_id["item_id"][f"i{k}"] for k in without]
        assert sorted(np.flatnonzero(~model.item_fusion.present.numpy())[1:]) == sorted(ids)
        with torch.no_grad():
            model.item_fusion.missing += 1.0
        fused = model.item_fusion(model.item_embedding.weight) - model.item_embedding.weight
        torch.testing.assert_close(fused[ids], torch.ones_like(fused[ids]))
        assert not fused[1:][model.item_fusion.present[1:]].any()

    def test_are_left_out_of_users_texts(self, tmp_path):
        folder = write_checkerboard(tmp_path, file_order=list(range(6)))  # most users have a text of one or two items
        config, data, model = build(folder)
        rows = data.split.train
        for user in range(1, data.base.user_num):
            own = [int(i) for u, i in zip(data.user_ids[rows], data.item_ids[rows], strict=True) if u == user]
            own = [i for i in own if model.item_fusion.present[i]]
            mean = model.item_fusion.rows[own].sum(0) if own else torch.zeros(model.item_fusion.rows.shape[1])
            assert bool(model.user_fusion.present[user]) == bool(own)
            torch.testing.assert_close(model.user_fusion.rows[user], F.normalize(mean, dim=0))


class TestUserTexts:
    """Reviews, weighted by rating, of training rows alone."""

    @pytest.fixture
    def folder(self, tmp_path):
        folder = write_checkerboard(tmp_path)
        file = folder / "checkerboard" / "checkerboard.inter"
        _, *lines = file.read_text().splitlines()
        rows, reviews = [], []
        for k, line in enumerate(lines):
            user, item, time = line.split("\t")
            review = f"r{k}" if k % 7 else ""  # every seventh has none
            rows.append("\t".join((user, item, time, str(1 + k // 11 % 5), review)))
            reviews += [review] * bool(review)
        header = "user_id:token\titem_id:token\ttimestamp:float\trating:float\treview_id:token"
        file.write_text("\n".join([header, *rows]) + "\n")
        matrix = np.random.default_rng(2).normal(size=(len(reviews), 12)).astype(np.float32)
        save_feature(file.with_name("checkerboard.review.safetensors"), reviews, matrix, "review_id", {"encoder": "e"})
        return folder

    def test_written_out(self, folder):
        columns = ["user_id", "item_id", "timestamp", "rating", "review_id"]
        features = checkerboard_settings(folder)["features"] | {"review": {"side": "interaction", "missing": "zero"}}
        more = {"features": features, "review_features": ["review"], "load_col": {"inter": columns}, "whiten": "none"}
        config, data, model = build(folder, **more)
        feature = data.features["review"]
        assert feature.side == "interaction" and feature.coverage == 1.0
        assert (data.base.inter_feat["review_id"] == 0).mean() == pytest.approx(1 / 7, abs=0.01)  # none is [PAD]
        x = feature.matrix / np.linalg.norm(feature.matrix, axis=1, keepdims=True).clip(1e-12)
        x = np.where(feature.present[:, None], x - x[feature.present].mean(0), 0)
        x /= np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)
        frame = data.base.inter_feat
        for user in range(1, data.base.user_num):
            total, alike = np.zeros(12), np.zeros(12)
            for row in data.split.train:
                if data.user_ids[row] == user and feature.present[frame["review_id"].iloc[row]]:
                    total += frame["rating"].iloc[row] * x[frame["review_id"].iloc[row]]
                    alike += x[frame["review_id"].iloc[row]]
            wanted = total if total.any() else alike
            wanted = wanted / max(np.linalg.norm(wanted), 1e-12)
            np.testing.assert_allclose(model.user_fusion.rows[user].numpy(), wanted, rtol=1e-4, atol=1e-5)

    def test_weights_and_their_absence(self, folder):
        columns = ["user_id", "item_id", "timestamp", "rating"]
        rated, alike = (
            build(folder, load_col={"inter": columns}, user_text_weight=kind)[2] for kind in ("rating", "none")
        )
        assert not torch.allclose(rated.user_fusion.rows, alike.user_fusion.rows)
        unrated = build(folder, load_col={"inter": columns[:3]})[2]
        torch.testing.assert_close(unrated.user_fusion.rows, alike.user_fusion.rows)

    def test_reviews_that_are_not_loaded(self, folder):
        features = {"review": {"side": "interaction", "missing": "zero"}}
        with pytest.raises(ConfigError, match="load the column in load_col"):
            build(folder, features=checkerboard_settings(folder)["features"] | features, review_features=["review"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'; choose softmax or bpr"),
        ({"fusion_mode": "product"}, "fusion_mode is 'product'; choose sum or concat"),
        ({"item_features": []}, "set item_features"),
        ({"cold_reg_weight": 0.0}, "cold_reg_weight is 0.0; it must be above 0"),
        ({"cold_gamma": 0.0}, "cold_gamma is 0.0; it must be above 0"),
        ({"cold_scale": -1.0}, "cold_scale is -1.0; it must be above 0"),
        ({"user_text_weight": "stars"}, "user_text_weight is 'stars'"),
    ],
)
def test_errors(folder, changes, said):
    with pytest.raises(ConfigError, match=said):
        build(folder, **changes)


def test_shuffled_texts_hurt_where_only_texts_can_tell(tmp_path):
    """Cold items: with the rows of the items permuted, their ranking falls to chance."""
    folder = write_checkerboard(tmp_path)
    settings = checkerboard_settings(folder) | SMALL | {"protocol": "item-cold", "cold_items": 0.5, "epochs": 30}
    settings |= {"run_dir": str(tmp_path / "runs"), "state": "WARNING", "metrics": ["NDCG", "AUC"], "topk": [3]}
    settings |= {"valid_metric": "NDCG@3", "learning_rate": 0.01}
    true, placebo = (run("AGLRec", "checkerboard", settings | {"placebo": kind}).test for kind in ("none", "shuffle"))
    assert true["auc"] > 0.9 and placebo["auc"] < 0.75 and true["ndcg@3"] > placebo["ndcg@3"]


@pytest.mark.slow
def test_every_variant_of_the_ablation_is_another_model(folder):
    plan = read_ablation("AGLRec")
    found: dict[str, tuple[str, torch.Tensor]] = {}
    names = (
        "whiten",
        "use_item_llm",
        "use_user_llm",
        "fusion_mode",
        "fusion_dim",
        "text_init",
        "cold_path",
        "loss",
        "placebo",
    )
    for row in plan.rows:
        config, data, model = build(folder, embedding_size=24, **row.settings)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        torch.manual_seed(0)
        for batch in [*train_loader(config, data)] * 3:
            optimizer.zero_grad()
            sum(model.train().calculate_loss(batch)).backward()
            optimizer.step()
        found[row.label] = (str([config[name] for name in names]), scores_of(config, data, model))
    assert len(found) == 15 and len({text for text, _ in found.values()}) == len(found)
    labels = list(found)
    for k, one in enumerate(labels):
        for other in labels[k + 1 :]:
            assert not torch.allclose(found[one][1], found[other][1], atol=1e-4), (one, other)
    grid = [
        label for label in labels if label.split(",")[0] in ("none", "user", "item", "both") and "wide" not in label
    ]
    assert len(grid) == 8
