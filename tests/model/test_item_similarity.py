"""Closed-form general models on item-item matrices: the contracts, and each model against a naive loop."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from contract_general import GeneralContract
from recbole.model.general_recommender import EASE
from synthetic import N_ITEMS, checkerboard_settings, write_checkerboard

from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.experiment.data import build_data, eval_data
from recbole_llm.model.content import joined_features
from recbole_llm.model.general.item_similarity import keep_largest
from recbole_llm.model.general.ridge_text import ridge
from recbole_llm.model.general.rp3beta import walk_weights
from recbole_llm.registry import resolve_model
from recbole_llm.trainer.fold_in import fold_in

WITHOUT_TEXT = 3  # item i3 has no row in the files of `partly_described`


@pytest.fixture(scope="module")
def partly_described(tmp_path_factory):
    """A checkerboard whose item i3 has no features."""
    rows = np.delete(np.arange(N_ITEMS + 2), WITHOUT_TEXT)
    return write_checkerboard(tmp_path_factory.mktemp("partly"), file_order=rows)


def item_id(data, number: int) -> int:
    return data.base.field2token_id["item_id"][f"i{number}"]


def text_of(config, data) -> np.ndarray:
    return (
        joined_features(data.train, config["item_features"], config["whiten"], config["text_dim"])[0].double().numpy()
    )


class ClosedForm(GeneralContract):
    trained = False

    def test_known_interactions_are_folded_in(self, folder):
        """At test a user's row holds the validation item too; what was solved stays."""
        config, data, model = self.build(folder)
        before, solved = self.scores(config, data, model), model.item_similarity.copy()
        test = eval_data(config, data, "test")
        assert fold_in(model, test.known_dataset())
        after = self.scores(config, data, model)
        assert (before != after).any(1).all() and np.array_equal(model.item_similarity, solved)
        assert model.interaction_matrix.sum() == len(data.split.train) + len(data.split.valid)


class TestRP3beta(ClosedForm):
    model = "RP3beta"
    config = {"alpha": 0.8, "beta": 0.4}


class TestTextEASE(ClosedForm):
    model = "TextEASE"
    # whitened not at all: 26 items do not tell much about directions
    config = {"reg_weight": 5.0, "gamma": 0.3, "beta": 2.0, "whiten": "none"}
    scores_cold_items = True

    def test_without_text_it_is_recbole_s_ease(self, folder):
        _, data, model = self.build(folder, beta=0.0, gamma=0.0)
        settings = checkerboard_settings(folder) | {"reg_weight": 5.0}
        oracle = EASE(build_config("EASE", "checkerboard", (), settings, ()), data.train)
        np.testing.assert_allclose(model.item_similarity, oracle.item_similarity, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("gamma", [0.0, 0.3])
    def test_weights_are_ridge_regressions_on_users_and_text(self, partly_described, gamma):
        """Column j: the regression of column j of [X; beta T'] on the others, drawn to the cosines of their texts."""
        config, data, model = self.build(partly_described, gamma=gamma)
        text, without = text_of(config, data), item_id(data, WITHOUT_TEXT)
        assert not text[without].any() and text[1].any()
        rows = np.vstack([model.interaction_matrix.toarray(), 2.0 * text.T]).astype(np.float64)
        for j in (1, without, item_id(data, N_ITEMS)):
            others = np.delete(np.arange(data.n_items), j)
            x = rows[:, others]
            prior = gamma * text[others] @ text[j]
            expected = np.linalg.solve(x.T @ x + 5.0 * np.eye(len(others)), x.T @ rows[:, j] + 5.0 * prior)
            np.testing.assert_allclose(model.item_similarity[others, j], expected, rtol=1e-4, atol=1e-6)
            assert model.item_similarity[j, j] == 0 and np.abs(expected).max() > 0.01

    def test_a_prior_beyond_doubt_is_what_comes_out(self, partly_described):
        """Under a heavy lambda the weights are gamma times the cosines, whatever was used."""
        config, data, model = self.build(partly_described, beta=0.0, reg_weight=1e7)
        text = text_of(config, data)
        expected = 0.3 * text @ text.T
        np.fill_diagonal(expected, 0.0)
        np.testing.assert_allclose(model.item_similarity, expected, atol=1e-4)


class TestContentKNN(ClosedForm):
    model = "ContentKNN"
    config = {"text_dim": 8}
    scores_cold_items = True

    def test_score_is_the_cosine_of_profile_and_text(self, partly_described):
        config, data, model = self.build(partly_described)
        text, scores = text_of(config, data), self.scores(config, data, model).numpy()
        users = eval_data(config, data, "valid").tasks[0].user_ids
        for row, user in zip(scores, users, strict=True):
            known = [i for i, u in zip(data.item_ids, data.user_ids, strict=True) if u == user][:-2]  # rows are by time
            profile = np.mean([text[i] for i in known if text[i].any()], 0)
            for j in range(1, data.n_items):
                if j in known:
                    continue  # an item does not vote for itself
                expected = profile @ text[j] / np.linalg.norm(profile)
                assert row[j] == pytest.approx(expected, abs=1e-5), (user, j)
        assert not scores[:, item_id(data, WITHOUT_TEXT)].any()

    def test_only_the_nearest_items_vote(self, folder):
        config, data, model = self.build(folder, k=2)
        text = text_of(config, data)
        similarity = text @ text.T
        np.fill_diagonal(similarity, 0.0)
        for j in range(1, data.n_items):
            nearest = sorted(range(data.n_items), key=lambda i, j=j: -similarity[i, j])[:2]
            assert set(np.flatnonzero(model.item_similarity[:, j])) == set(nearest)
            np.testing.assert_allclose(model.item_similarity[nearest, j], similarity[nearest, j], rtol=1e-4)


class TestRidgeText(ClosedForm):
    model = "RidgeText"
    config = {"rank": 6, "reg_weight": 0.5, "text_dim": 8, "warm_items": "text"}
    scores_cold_items = True

    def test_full_rank_regresses_the_item_s_column(self, partly_described):
        """The scores of all users for an item, from its text: fitted on the used and described items alone."""
        config, data, model = self.build(partly_described, rank=0)
        x, text = model.interaction_matrix.toarray().astype(np.float64), text_of(config, data)
        fitted = [j for j in range(1, data.n_items) if x[:, j].any() and text[j].any()]
        assert len(fitted) == N_ITEMS - 1
        mean_text, mean = text[fitted].mean(0), x[:, fitted].mean(1)
        a = text[fitted] - mean_text
        b = np.linalg.solve(a.T @ a + 0.5 * np.eye(a.shape[1]), a.T @ (x[:, fitted].T - mean))
        expected = mean[:, None] + ((text - mean_text) @ b).T
        expected[:, item_id(data, WITHOUT_TEXT)] = mean  # the mean item, not the one whose text is all zeros
        np.testing.assert_allclose((x @ model.item_similarity)[:, 1:], expected[:, 1:], rtol=1e-4, atol=1e-5)

    def test_own_factors_are_those_of_pure_svd(self, folder):
        _, data, model = self.build(folder, warm_items="factors")
        x = model.interaction_matrix.toarray().astype(np.float64)
        _, _, vt = np.linalg.svd(x)
        v, used = vt[:6].T, x.any(0)
        np.testing.assert_allclose(model.item_similarity[:, used], (v @ v.T)[:, used], atol=1e-5)
        _, _, by_text = self.build(folder)
        assert np.array_equal(model.item_similarity[:, ~used], by_text.item_similarity[:, ~used])
        assert not np.allclose(model.item_similarity[:, used], by_text.item_similarity[:, used], atol=1e-2)

    def test_an_unknown_kind_of_warm_items_is_named(self, folder):
        with pytest.raises(ConfigError, match="warm_items is 'txt'; choose text or factors"):
            self.build(folder, warm_items="txt")

    def test_own_factors_of_full_rank_are_refused(self, folder):
        with pytest.raises(ConfigError, match="rank 0 would score each item by itself alone; set rank to 1 to 26"):
            self.build(folder, warm_items="factors", rank=0)


def test_walk_written_out():
    """Users 1: a, b; 2: b, c. From a to c there is no walk; the others by hand, alpha 1 and beta 1."""
    x = sp.csr_matrix([[0, 0, 0], [1, 1, 0], [0, 1, 1]])
    expected = [[0, 1 / 2 / 2, 0], [1 / 2 * 1 / 2, 0, 1 / 2 * 1 / 2], [0, 1 / 2 / 2, 0]]
    np.testing.assert_allclose(walk_weights(x, 1.0, 1.0, 0), expected)


@pytest.mark.parametrize("k", [0, 2])
def test_walk_equals_a_naive_loop(k):
    n_users, n_items = 9, 8
    x = (np.random.default_rng(3).random((n_users, n_items)) < 0.5).astype(float)
    x[:, -1] = 0  # nobody's
    alpha, beta = 0.7, 0.3
    expected = np.zeros((n_items, n_items))
    for i in range(n_items):
        for j in range(n_items):
            for u in range(n_users):
                if i != j and x[u, i] and x[u, j]:
                    expected[i, j] += (1 / x[:, i].sum()) ** alpha * (1 / x[u].sum()) ** alpha / x[:, j].sum() ** beta
        for j in sorted(range(n_items), key=lambda j, i=i: -expected[i, j])[k or n_items :]:
            expected[i, j] = 0
    np.testing.assert_allclose(walk_weights(sp.csr_matrix(x), alpha, beta, k), expected, rtol=1e-5)


def test_keep_largest_written_out():
    weights = np.array([[1.0, 9.0], [3.0, -1.0], [2.0, 4.0]])
    assert keep_largest(weights.copy(), 2).tolist() == [[0, 9], [3, 0], [2, 4]]
    assert keep_largest(weights.copy(), 0).tolist() == keep_largest(weights.copy(), 5).tolist() == weights.tolist()


def test_ridge_written_out():
    """y = 1 + 2 t: lambda halves the slope where the sum of squares is lambda; the last row is not fitted."""
    text, target = np.array([[0.0], [2.0], [1.0], [5.0]]), np.array([[1.0], [5.0], [3.0], [-99.0]])
    rows = np.array([True, True, True, False])
    np.testing.assert_allclose(ridge(text, target, rows, 2.0)[:, 0], [2, 4, 3, 7])
    np.testing.assert_allclose(ridge(text, target, rows, 1e-9)[:, 0], [1, 5, 3, 11], rtol=1e-6)


def test_a_repeated_interaction_counts_once(tmp_path):
    write_checkerboard(tmp_path)
    settings = checkerboard_settings(tmp_path) | {"item_features": [], "beta": 0.0, "gamma": 0.0}

    def solved() -> np.ndarray:
        data = build_data(build_config("TextEASE", "checkerboard", (), settings, ()))
        model = resolve_model("TextEASE")(data.config, data.train)
        scores = model.full_sort_predict({"user_id": torch.arange(1, 4)})
        return np.vstack([model.item_similarity, scores.numpy()])

    once = solved()
    file = tmp_path / "checkerboard" / "checkerboard.inter"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines[:2], lines[1], *lines[2:]]) + "\n", encoding="utf-8")
    np.testing.assert_allclose(solved(), once, rtol=1e-6)
