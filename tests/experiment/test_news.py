"""Runs under the protocols of news: what models see, what is measured, what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from sklearn.metrics import roc_auc_score

from recbole_llm import run
from recbole_llm.config import build_config
from recbole_llm.data.atomic import write_atomic
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.experiment.data import build_data, build_model, eval_data, train_loader
from recbole_llm.experiment.validate import validate
from recbole_llm.trainer.impression_rows import ImpressionRows

N_USERS, N_IMPRESSIONS, N_SHOWN, N_ITEMS = 12, 160, 5, 40
COLUMNS = ["user_id", "item_id", "label", "timestamp", "impression_id"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user clicks on articles of the own colour; four articles are shown together with one of these."""
    rng, rows = np.random.default_rng(3), []
    for k in range(N_IMPRESSIONS):
        user = int(rng.integers(N_USERS))
        for item in rng.choice(N_ITEMS, N_SHOWN, replace=False).tolist():
            rows.append([f"u{user}", f"n{item}", float(item % 2 == user % 2 and rng.random() < 0.9), 60.0 * k, f"i{k}"])
    frame = pd.DataFrame(rows, columns=COLUMNS)
    types = {"label": "float", "timestamp": "float"} | dict.fromkeys(("user_id", "item_id", "impression_id"), "token")
    place = tmp_path_factory.mktemp("news")
    for name, kept in (
        ("shown", COLUMNS),
        ("pooled", COLUMNS[:3]),
        ("unlabelled", ["user_id", "item_id", "timestamp"]),
    ):
        (place / name).mkdir()
        write_atomic(place / name / f"{name}.inter", frame[kept], {c: types[c] for c in kept})
    return place


def settings(folder, tmp_path, dataset: str = "shown", **changes) -> dict:
    columns = {"shown": COLUMNS, "pooled": COLUMNS[:3], "unlabelled": ["user_id", "item_id", "timestamp"]}[dataset]
    return {
        "data_path": str(folder),
        "run_dir": str(tmp_path),
        "load_col": {"inter": columns},
        "protocol": "news" if dataset == "shown" else "news-pooled",
        "use_gpu": False,
        "show_progress": False,
        "epochs": 30,
        "learning_rate": 0.02,
        "train_batch_size": 64,
    } | changes


@pytest.mark.parametrize("model", ["BPR", "DeepFM", "SASRec", "SASRecAll"])
def test_models_that_can_learn_who_likes_what_do(folder, tmp_path, model):
    small = {"hidden_size": 8, "inner_size": 8, "n_heads": 1, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 10}
    changes = small if model.startswith("SASRec") else {"embedding_size": 8}
    changes |= {"train_neg_sample_args": None} if model in ("SASRec", "DeepFM") else {}
    result = run(model, "shown", settings(folder, tmp_path, **changes))
    assert set(result.test) >= {"auc", "mrr", "ndcg@5", "ndcg@10", "pooled/auc", "pooled/auc_low", "pooled/auc_high"}
    assert result.test["auc"] > 0.65  # half the articles are of the own colour: chance is .5
    assert result.test["pooled/auc_low"] < result.test["pooled/auc"] < result.test["pooled/auc_high"]
    of_probabilities = {"pooled/accuracy", "pooled/majority_accuracy", "pooled/log_loss", "pooled/base_rate_log_loss"}
    assert (set(result.test) >= of_probabilities) == (model == "DeepFM")
    table = pd.read_parquet(tmp_path / result.run_folder.rpartition("/")[2] / "per_user.parquet")
    assert result.test_reads == 1 and set(table["user"]) <= {
        f"i{k}" for k in range(N_IMPRESSIONS * 9 // 10, N_IMPRESSIONS)
    }
    assert table["auc"].mean() == pytest.approx(result.test["auc"])  # an impression is an observation


def test_without_impressions_there_is_one_pool(folder, tmp_path):
    result = run("Pop", "pooled", settings(folder, tmp_path, "pooled", epochs=1))
    # no held-out article was ever clicked in training
    assert result.valid["pooled/auc"] == result.test["pooled/auc"] == 0.5 and "auc" not in result.test
    table = pd.read_parquet(tmp_path / result.run_folder.rpartition("/")[2] / "per_user.parquet")
    assert set(table) == {"user", "pooled/auc"} and set(table["user"]) <= {f"u{k}" for k in range(N_USERS)}


class Says:
    """A model that scores rows as it is told."""

    type, predicts_probabilities = ModelType.GENERAL, False

    def __init__(self, scores) -> None:
        self.given = torch.as_tensor(scores)

    def eval(self) -> None:
        """As a torch module has it."""

    def predict(self, inputs) -> torch.Tensor:
        return self.given[inputs["row"]]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(-4, 4)), min_size=2, max_size=40))
def test_gauc_does_not_count_who_clicks_how_often(rows):
    """It is the mean over users by their rows, and what is added to all scores of a user changes nothing."""
    users, labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    shown = ImpressionRows(Interaction({"row": torch.arange(len(rows))}), users, labels, 7, None, 0.5)
    found = shown.evaluate(Says(scores.astype(float)), torch.device("cpu"))
    own = [np.flatnonzero(users == u) for u in range(4)]
    own = [r for r in own if len(set(labels[r])) == 2]
    if not own:
        assert "pooled/gauc" not in found
        return
    expected = sum(len(r) * roc_auc_score(labels[r], scores[r]) for r in own) / sum(map(len, own))
    assert found["pooled/gauc"] == pytest.approx(expected)
    moved = shown.evaluate(Says(scores + 100.0 * users), torch.device("cpu"))
    assert moved["pooled/gauc"] == found["pooled/gauc"]


def test_where_no_user_has_both_labels_another_metric_must_choose(folder, tmp_path):
    (tmp_path / "once").mkdir()
    users = [f"u{k}" for k in range(60) for _ in range(2)]
    frame = pd.DataFrame({"user_id": users, "item_id": [f"n{k}" for k in range(120)]})
    frame["label"] = [float(k % 4 < 2) for k in range(120)]  # a user clicks on both or on none
    write_atomic(
        tmp_path / "once" / "once.inter", frame, dict.fromkeys(("user_id", "item_id"), "token") | {"label": "float"}
    )
    changes = settings(tmp_path, tmp_path, "pooled", epochs=1)
    with pytest.raises(
        DataError, match="validation gives no pooled/gauc: .* choose another valid_metric, of pooled/auc"
    ):
        run("BPR", "once", changes)
    assert "pooled/gauc" not in run("BPR", "once", changes | {"valid_metric": "pooled/AUC"}).test


def test_a_choice_does_not_open_the_test(folder, tmp_path, monkeypatch):
    from recbole_llm.data.impressions import Impressions

    def refuse(self):
        raise AssertionError("the test was opened")

    monkeypatch.setattr(Impressions, "open_test", refuse)
    found = validate(build_config("BPR", "shown", (), settings(folder, tmp_path, epochs=1), ()))
    assert 0 < found["auc"] < 1


def test_no_model_sees_what_belongs_together(folder, tmp_path):
    config = build_config("DeepFM", "shown", (), settings(folder, tmp_path, train_neg_sample_args=None), ())
    data = build_data(config)
    seen = set(data.train.inter_feat.interaction) | set(eval_data(config, data, "valid").inputs.interaction)
    assert "impression_id" not in seen and "label" not in eval_data(config, data, "valid").inputs.interaction
    assert len(data.train) == len(data.split.train)  # labels are learnt from: rows of both
    assert build_model(config, data).token_field_names == ["user_id", "item_id"]
    config = build_config("BPR", "shown", (), settings(folder, tmp_path), ())
    data = build_data(config)
    assert len(data.train) == data.labels[data.split.train].sum()  # others take every row for a click
    assert len(list(train_loader(config, data)))


def test_a_history_is_what_was_clicked_before_the_row(folder, tmp_path):
    changes = {"MAX_ITEM_LIST_LENGTH": 3, "train_neg_sample_args": None}
    config = build_config("SASRec", "shown", (), settings(folder, tmp_path, **changes), ())
    data = build_data(config)
    for part, known in (("valid", [data.split.train]), ("test", [data.split.train, data.split.valid])):
        known = np.concatenate(known)
        inputs = eval_data(config, data, part).inputs
        rows = data.split.valid if part == "valid" else data.split._test
        assert inputs["item_id"].tolist() == data.item_ids[rows].tolist()
        times = data.base.raw.times
        for k, row in enumerate(rows):
            before = [r for r in known if data.user_ids[r] == data.user_ids[row] and data.labels[r]]
            before = sorted((r for r in before if times[r] < times[row]), key=lambda r: times[r])[-3:]
            found = inputs["item_id_list"][k].tolist()
            # clicks of one impression have one time: their order among each other does not matter
            assert sorted(found[: len(before)]) == sorted(data.item_ids[before]) and not any(found[len(before) :])
            assert inputs["item_length"][k] == max(len(before), 1)


@pytest.mark.parametrize(
    ("model", "dataset", "changes", "error", "message"),
    [
        ("BPR", "unlabelled", {}, DataError, "takes labels from the column 'label', which dataset 'unlabelled' does"),
        ("SASRec", "pooled", {"train_neg_sample_args": None}, ConfigError, "learns the order of clicks, but dataset"),
        ("BPR", "shown", {"min_rating": 3}, ConfigError, "min_rating does not go together with impressions"),
        ("BPR", "shown", {"valid_metric": "NDCG@20"}, ConfigError, "valid_metric under impressions is AUC, MRR"),
        ("BPR", "shown", {"evaluator": "recbole"}, ConfigError, "set evaluator to recbole_llm"),
        ("BPR", "shown", {"LABEL_FIELD": "timestamp"}, DataError, "column 'timestamp' must hold 0 and 1"),
    ],
)
def test_what_cannot_be_run_is_said(folder, tmp_path, model, dataset, changes, error, message):
    with pytest.raises(error, match=message):
        build_data(build_config(model, dataset, (), settings(folder, tmp_path, dataset, **changes), ()))


def test_the_doctor_reads_validation_rows_alone(folder, tmp_path, monkeypatch):
    from recbole_llm.data.impressions import Impressions
    from recbole_llm.diagnose.health import health_of_model

    def refuse(self):
        raise AssertionError("the test was opened")

    monkeypatch.setattr(Impressions, "open_test", refuse)
    changes = {"train_neg_sample_args": None, "embedding_size": 8}
    found = health_of_model(build_config("DeepFM", "shown", (), settings(folder, tmp_path, **changes), ()), n_steps=3)
    facts = {part.key: part.facts for part in found.parts}
    assert facts["scores"]["rows"] == N_IMPRESSIONS // 10 * N_SHOWN - N_SHOWN * 2  # the latest tenth of nine tenths
    assert 0.3 < facts["scores"]["positive share"] < 0.6
    assert not [finding for finding in found.findings if finding.severity == "error"]
