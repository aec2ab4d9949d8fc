"""Exported vectors rank as the model does, or are refused."""

import numpy as np
import pytest
import torch

from recbole_llm.data.feature_file import read_feature
from recbole_llm.data.feature_store import load_features
from recbole_llm.errors import ConfigError
from recbole_llm.experiment import run
from recbole_llm.serving.embeddings import embeddings, ranks_alike, save_embeddings
from recbole_llm.serving.recommender import Recommender

SETTINGS = {
    "embedding_size": 8,
    "n_layers": 1,
    "epochs": 1,
    "use_gpu": False,
    "state": "WARNING",
    "show_progress": False,
}


@pytest.fixture(scope="module")
def recommender_of(tmp_path_factory, tiny_dataset):
    folder, made = tiny_dataset(tmp_path_factory.mktemp("tiny"), n_items=60), {}

    def train(model: str) -> Recommender:
        if model not in made:
            place = {"data_path": str(folder), "run_dir": str(folder / "runs" / model)}
            run(model, "tiny", SETTINGS | place)
            (made[model],) = (folder / "runs" / model).iterdir()
        return Recommender.from_run(made[model])

    return train


@pytest.mark.parametrize(
    "model", ["BPR", "LightGCN", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SGL", "NGCF"))]
)
def test_inner_products_of_the_files_rank_as_the_model(recommender_of, tmp_path, model):
    made = recommender_of(model)
    paths = tmp_path / "tiny.u.safetensors", tmp_path / "tiny.i.safetensors"
    assert save_embeddings(made, *paths) == (40, made.data.n_items - 1)
    (users, u, about), (items, i, _) = (read_feature(path) for path in paths)
    assert u.dtype == i.dtype == np.float32
    assert (about["encoder"], about["id_field"], about["split"]) == (model, "user_id", made.data.split.fingerprint)
    assert users == list(made.user_tokens[1:]) and items == list(made.item_tokens[1:])
    vector, products = dict(zip(users, u, strict=True)), {}
    for user in users:
        products[user] = dict(zip(items, i @ vector[user], strict=True))
    for user, own in made.recommend(topk=10).groupby("user"):
        scores = [products[user][item] for item in own["item"]]
        np.testing.assert_allclose(scores, own["score"], rtol=1e-4, atol=1e-5)
        outside = set(items) - set(own["item"]) - set(made.item_tokens[made._seen[made.user_ids([user])[0]].indices])
        assert min(scores) >= max(products[user][item] for item in outside) - 1e-5


def test_they_load_back_as_features(recommender_of, tmp_path):
    made = recommender_of("BPR")
    save_embeddings(made, tmp_path / "tiny.u_bpr.safetensors", tmp_path / "tiny.i_bpr.safetensors")
    fields = {"item": "item_id", "user": "user_id"}
    features = load_features(
        {"u_bpr": {"side": "user"}, "i_bpr": {"side": "item"}},
        [tmp_path],
        "tiny",
        {field: made.data.base.field2id_token[field] for field in fields.values()},
        id_fields=fields,
    )
    for name, table in (("u_bpr", made.model.user_embedding), ("i_bpr", made.model.item_embedding)):
        assert features[name].present[1:].all() and not features[name].matrix[0].any()
        np.testing.assert_array_equal(features[name].matrix[1:], table.weight.detach().numpy()[1:])


def test_one_side_alone(recommender_of, tmp_path):
    made = recommender_of("BPR")
    assert save_embeddings(made, items=tmp_path / "tiny.i.safetensors") == (0, made.data.n_items - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.i.safetensors"]


@pytest.mark.parametrize("model", ["Pop", "EASE", "ENMF"])
def test_a_model_without_such_vectors(recommender_of, tmp_path, model):
    """ENMF has both tables, and scores by a weighted product of them."""
    with pytest.raises(ConfigError, match=f"{model} has no vectors of users and items whose inner product ranks"):
        save_embeddings(recommender_of(model), tmp_path / "tiny.u.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_likeliest_pair_that_ranks_alike_is_taken(recommender_of, monkeypatch):
    made = recommender_of("BPR")
    users, items = (table.weight.detach() for table in (made.model.user_embedding, made.model.item_embedding))
    monkeypatch.setattr(made.model, "restore_user_e", 2 * users, raising=False)
    monkeypatch.setattr(made.model, "restore_item_e", items, raising=False)
    np.testing.assert_array_equal(embeddings(made)[0], 2 * users.numpy())
    monkeypatch.setattr(made.model, "restore_user_e", -users)  # the tables themselves do rank as the model
    np.testing.assert_array_equal(embeddings(made)[0], users.numpy())
    monkeypatch.setattr(made.model, "restore_user_e", users)
    monkeypatch.setattr(made, "scorer", lambda user_ids: lambda rows: -users[user_ids] @ items.T)
    with pytest.raises(ConfigError, match="BPR has no vectors"):
        embeddings(made)


def test_other_endings(recommender_of, tmp_path):
    with pytest.raises(ConfigError, match="embeddings are written as <dataset>.<feature>.safetensors"):
        save_embeddings(recommender_of("BPR"), tmp_path / "users.npy")


class TestRanksAlike:
    scores = np.random.default_rng(0).normal(size=(5, 30))

    @pytest.mark.parametrize("change", [lambda x: x, lambda x: 3 * x - 2, np.tanh, lambda x: x + 1e-7 * x[:, ::-1]])
    def test_increasing_functions_and_rounding(self, change):
        assert ranks_alike(self.scores, change(self.scores))

    @pytest.mark.parametrize(
        "change",
        [
            lambda x: -x,
            lambda x: x[::-1],
            lambda x: np.where(np.arange(5)[:, None] == 4, -x, x),
            np.zeros_like,
            np.abs,
            lambda x: x + 0.05 * x[:, ::-1],
        ],
    )
    def test_others(self, change):
        assert not ranks_alike(self.scores, change(self.scores))

    def test_products_that_do_not_tell_items_apart(self):
        assert not ranks_alike(np.zeros((1, 3)), np.array([[3.0, 2.0, 1.0]]))
        assert ranks_alike(np.array([[3.0, 2.0, 1.0]]), np.array([[1.0, 1.0, 0.0]]))  # as a saturated sigmoid does


def test_vectors_are_plain_arrays(recommender_of):
    users, items = embeddings(recommender_of("LightGCN"))
    assert users.flags["C_CONTIGUOUS"] and items.flags["C_CONTIGUOUS"] and not isinstance(users, torch.Tensor)
