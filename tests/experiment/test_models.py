"""RecBole's models through our run: end to end, folded in at test, and against RecBole's own evaluator."""

import numpy as np
import pytest
import torch
from recbole.utils import init_seed

from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError
from recbole_llm.evaluation.kernel import evaluate
from recbole_llm.experiment import load, run
from recbole_llm.experiment.data import build_data, eval_data
from recbole_llm.registry import resolve_model
from recbole_llm.trainer.fold_in import fold_in

SMALL = {
    "embedding_size": 8,
    "hidden_size": 8,
    "inner_size": 8,
    "n_layers": 1,
    "n_heads": 2,
    "mlp_hidden_size": [8],
    "latent_dimension": 8,
    "k": 10,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 256,
    "epochs": 2,
    "use_gpu": False,
    "state": "WARNING",
    "show_progress": False,
    "metrics": ["NDCG", "Hit", "Recall", "MRR"],
    "topk": [5, 10],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_dataset):
    return tiny_dataset(tmp_path_factory.mktemp("tiny"))


def run_small(folder, tmp_path, model: str, **changes):
    return run(model, "tiny", SMALL | {"data_path": str(folder), "run_dir": str(tmp_path)} | changes)


@pytest.mark.parametrize(
    "model",
    ["Pop", "ItemKNN", "EASE", "BPR", "LightGCN", "MultiVAE", "SASRec", "GRU4Rec", "SASRecAll", "Markov", "EASEMarkov"],
)
def test_runs_end_to_end(folder, tmp_path, model):
    result = run_small(folder, tmp_path, model)
    assert 0 < result.test["hit@10"] <= 1
    assert result.valid["ndcg@10"] == result.stages[-1]["best_valid"]
    (home,) = tmp_path.iterdir()
    assert {"result.json", "config.yaml", "per_user.parquet", "best.pt", "log.txt"} <= {p.name for p in home.iterdir()}
    assert load(home)[1].split.fingerprint == result.split


@pytest.mark.parametrize("model", ["DIN", "SASRecF"])
def test_layers_that_recbole_names_as_other_parameters(folder, tmp_path, model):
    """They are in the state already; a checkpoint holds them once, and is loaded again."""
    changes = {"selected_features": ["class"]} if model == "SASRecF" else {}
    result = run_small(folder, tmp_path, model, epochs=1, **changes)
    model, data = load(result.run_folder)
    valid = eval_data(data.config, data, "valid")
    scorer = valid.scorer(model, torch.device("cpu"))
    found = evaluate(valid.tasks[0], scorer, metrics=["NDCG"], topk=[10]).metrics
    assert found["ndcg@10"] == pytest.approx(result.valid["ndcg@10"], abs=1e-6)


def test_auc_of_a_user_beside_ranking_metrics(folder, tmp_path):
    """RecBole refuses the two together; its own evaluator still does."""
    metrics = {"metrics": ["NDCG", "AUC"], "protocol": "rs-full"}
    result = run_small(folder, tmp_path, "EASE", **metrics)
    model, data = load(result.run_folder)
    test = eval_data(data.config, data, "test")
    fold_in(model, test.known_dataset())
    task, scores = test.tasks[0], test.scorer(model, torch.device("cpu"))(np.arange(len(test.tasks[0]))).numpy()
    wins = []
    for row in range(len(task)):
        wanted = set(task.pos_items[task.pos_indptr[row] : task.pos_indptr[row + 1]].tolist())
        masked = {0} | set(task.mask_items[task.mask_indptr[row] : task.mask_indptr[row + 1]].tolist())
        others = [scores[row, i] for i in range(task.n_items) if i not in masked | wanted]
        wins.append(np.mean([(scores[row, i] > o) + 0.5 * (scores[row, i] == o) for i in wanted for o in others]))
    assert result.test["auc"] == pytest.approx(np.mean(wins), abs=1e-6)
    with pytest.raises(ConfigError, match="Ranking metrics and value metrics"):
        build_config("EASE", "tiny", (), SMALL | metrics | {"data_path": str(folder), "evaluator": "recbole"}, ())
    alone = build_config(
        "EASE", "tiny", (), SMALL | {"data_path": str(folder), "metrics": ["AUC"]} | {"valid_metric": "AUC"}, ()
    )
    assert alone["metrics"] == ["AUC"] and alone["valid_metric_bigger"]


def test_all_models_are_measured_on_the_same_rows(folder, tmp_path):
    assert len({run_small(folder, tmp_path, m, epochs=1).split for m in ("Pop", "SASRec", "SASRecAll")}) == 1


@pytest.mark.parametrize("model", ["FM", "DeepFM"])
def test_click_models_run_under_their_protocol(folder, tmp_path, model):
    result = run_small(
        folder,
        tmp_path,
        model,
        metrics=["AUC", "LogLoss"],
        threshold={"rating": 3},
        load_col={"inter": ["user_id", "item_id", "rating"], "item": ["item_id", "class"]},
    )
    assert result.protocol == "ctr-labeled"
    assert 0 < result.test["auc"] < 1 and result.test["logloss"] > 0


class TestFoldIn:
    """At test the validation item is known: models that read user rows must see it."""

    def scored(self, folder, model: str, known: bool):
        config = build_config(model, "tiny", (), SMALL | {"data_path": str(folder)}, ())
        data = build_data(config)
        init_seed(1, True)
        module = resolve_model(model)(config, data.train).eval()
        test = eval_data(config, data, "test")
        before = test.scorer(module, torch.device("cpu"))(np.arange(len(test.tasks[0])))
        changed = fold_in(module, test.known_dataset()) if known else False
        after = test.scorer(module, torch.device("cpu"))(np.arange(len(test.tasks[0])))
        return data, module, before, after, changed

    @pytest.mark.parametrize("model", ["EASE", "ItemKNN", "MultiVAE", "MultiDAE", "SLIMElastic"])
    def test_scores_change_by_the_validation_item(self, folder, model):
        data, _, before, after, changed = self.scored(folder, model, known=True)
        assert changed and torch.isfinite(after).all()
        assert (before != after).any(1).float().mean() > 0.5

    @pytest.mark.parametrize("model", ["BPR", "LightGCN"])
    def test_models_without_user_rows_are_left_alone(self, folder, model):
        _, _, before, after, changed = self.scored(folder, model, known=True)
        assert not changed and torch.equal(before, after)

    def test_ease_scores_the_known_row_by_the_trained_weights(self, folder):
        data, model, _, after, _ = self.scored(folder, "EASE", known=True)
        known = np.concatenate([data.split.train, data.split.valid])
        rows = np.zeros((data.base.user_num, data.n_items), dtype=np.float32)
        rows[data.user_ids[known], data.item_ids[known]] = 1.0
        users = eval_users(data)
        np.testing.assert_allclose(after.numpy(), rows[users] @ model.item_similarity, rtol=1e-4, atol=1e-5)

    def test_item_knn_scores_the_known_row_by_the_trained_similarity(self, folder):
        data, model, _, after, _ = self.scored(folder, "ItemKNN", known=True)
        known = np.concatenate([data.split.train, data.split.valid])
        rows = np.zeros((data.base.user_num, data.n_items))
        rows[data.user_ids[known], data.item_ids[known]] = 1.0
        np.testing.assert_allclose(after.numpy(), (rows @ model.w.toarray())[eval_users(data)], rtol=1e-4, atol=1e-5)

    def test_the_run_folds_in(self, folder, tmp_path):
        """Test metrics of a run are those of the folded model."""
        result = run_small(folder, tmp_path, "EASE")
        data, model, before, after, _ = self.scored(folder, "EASE", known=True)
        config = data.config
        test = eval_data(config, build_data(config), "test")
        expected = {}
        for name, scores in (("folded", after), ("not", before)):
            found = evaluate(test.tasks[0], lambda r, s=scores: s[r], metrics=config["metrics"], topk=config["topk"])
            expected[name] = found.metrics
        assert result.test == pytest.approx(expected["folded"], abs=1e-9)
        assert result.test != pytest.approx(expected["not"], abs=1e-9)


def eval_users(data) -> np.ndarray:
    return np.unique(data.user_ids[data.split._test])


class TestAgainstRecBolesEvaluator:
    """Same model, same split, RecBole's loader, collector and evaluator: the metrics agree."""

    def both(self, folder, tmp_path, model: str, **changes) -> list[dict]:
        results = []
        for evaluator in ("recbole_llm", "recbole"):
            # the choice of the best epoch goes by the same metric, so both keep the same weights
            results.append(run_small(folder, tmp_path / evaluator, model, evaluator=evaluator, epochs=3, **changes))
        return results

    @pytest.mark.parametrize("protocol", ["loo-full", "rs-full"])
    def test_general_models_with_masked_history(self, folder, tmp_path, protocol):
        ours, theirs = self.both(folder, tmp_path, "BPR", protocol=protocol, learning_rate=0.05)
        assert ours.test == pytest.approx(theirs.test, abs=1e-6) and len(ours.test) == 8
        assert ours.valid == pytest.approx(theirs.valid, abs=1e-6)
        assert 0 < ours.test["ndcg@10"] < 1

    def test_sequential_models_without_masking(self, folder, tmp_path):
        ours, theirs = self.both(folder, tmp_path, "SASRec", mask_history=False, learning_rate=0.01)
        assert ours.test == pytest.approx(theirs.test, abs=1e-6)
        assert ours.valid == pytest.approx(theirs.valid, abs=1e-6)
        assert 0 < ours.test["ndcg@10"] < 1

    def test_masking_is_what_sets_them_apart(self, folder, tmp_path):
        ours, theirs = self.both(folder, tmp_path, "SASRec", learning_rate=0.01)
        assert ours.valid != pytest.approx(theirs.valid, abs=1e-6)

    def test_what_it_cannot_do_is_said(self, folder, tmp_path):
        with pytest.raises(ConfigError, match="evaluator: recbole ranks all items"):
            run_small(folder, tmp_path, "BPR", evaluator="recbole", n_candidates=5)
        with pytest.raises(ConfigError, match="needs RecBole's augmented rows, which SASRecAll does not use"):
            run_small(folder, tmp_path, "SASRecAll", evaluator="recbole")
