"""Runs under emerg-phases: what a record holds, that nothing is known too early, how models learn from a phase."""

import re
from concurrent.futures import Future

import numpy as np
import pandas as pd
import pytest
import torch
from phased import PHASES, Fake, interactions, phased_settings, write_phased

from recbole_llm import registry
from recbole_llm.comparison.execute import Runner, execute
from recbole_llm.comparison.foreign import import_recommendations
from recbole_llm.comparison.plan import Plan, Row
from recbole_llm.comparison.record import OK, About, write_about
from recbole_llm.comparison.worker import work
from recbole_llm.config import build_config
from recbole_llm.data.phases import Phases
from recbole_llm.errors import ConfigError
from recbole_llm.evaluation.pooled import auc
from recbole_llm.experiment import RunResult, load, run
from recbole_llm.experiment.data import build_data
from recbole_llm.experiment.phases import _loader, measure
from recbole_llm.experiment.record import _imported, code_hash, modules_of_run
from recbole_llm.experiment.validate import validate
from recbole_llm.report import markdown
from recbole_llm.report.write import make_report
from recbole_llm.serving.recommender import Recommender
from recbole_llm.trainer.hooks import TrainerHooks
from recbole_llm.trainer.pooled_data import PooledData

NAMES = ["cold", "warm-a", "warm-b", "warm-c"]
MODELS = ["DeepFM", "LightGCN", "EASE", "Pop", "RP3beta", "MultiVAE"]
CHANGES = {"MultiVAE": {"latent_dimension": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phased(tmp_path_factory.mktemp("phased"))


@pytest.fixture
def scored(monkeypatch) -> list[tuple[str, np.ndarray]]:
    """(phase, scores) of all evaluations, in their order."""
    kept, real = [], PooledData.measure

    def measured(self, scores, phase=None):
        kept.append((phase or "training", scores))
        return real(self, scores, phase)

    monkeypatch.setattr(PooledData, "measure", measured)
    return kept


def run_small(folder, model: str, **changes) -> RunResult:
    return run(model, "phased", phased_settings(folder, **CHANGES.get(model, {}), **changes))


@pytest.mark.parametrize("model", MODELS)
def test_runs_end_to_end(folder, tmp_path, model):
    result = run_small(folder, model, run_dir=str(tmp_path))
    (home,) = tmp_path.iterdir()
    assert home.name.startswith(f"{model}-phased-emerg-phases-s3-")
    assert list(result.test) == list(result.valid) == [f"{phase}/{m}" for phase in NAMES for m in ("auc", "f1")]
    assert all(0 <= value <= 1 for value in [*result.test.values(), *result.valid.values()])
    assert result.valid["cold/auc"] == result.stages[-1]["best_valid"] and result.test_reads == 1
    assert RunResult.from_json((home / "result.json").read_text()) == result
    assert "warm-c/auc" in result.summary()
    table = pd.read_parquet(home / "per_user.parquet")
    assert list(table) == ["user", *(f"{phase}/auc" for phase in NAMES)]
    assert table.notna().all().all() and table["user"].is_unique
    if model in ("EASE", "Pop", "RP3beta"):  # nobody has used a cold item
        assert result.test["cold/auc"] == result.valid["cold/auc"] == 0.5
        assert result.test["warm-a/auc"] > 0.5
    again, data = load(home)
    assert data.split.fingerprint == result.split and measure(data.config, data, again, "test")[0] == result.test


@pytest.mark.slow
def test_content_tells_of_a_cold_item_what_identities_learn_as_it_warms_up(folder):
    content = run_small(folder, "DeepFM", epochs=12, learning_rate=0.02).test
    assert content["cold/auc"] > 0.95 and content["warm-c/auc"] > 0.95
    rates = {"learning_rate": 0.02, "update_learning_rate": 0.02, "update_epochs": 10}
    identities = run_small(folder, "BPR", epochs=30, valid_metric="warm-a/AUC", **rates).test
    assert identities["cold/auc"] < 0.7 and identities["warm-c/auc"] > 0.85


def test_per_user_auc_is_that_of_his_rows(folder, scored):
    result = run_small(folder, "DeepFM")
    table = pd.read_parquet(f"{result.run_folder}/per_user.parquet").set_index("user")
    data = build_data(build_config("DeepFM", "phased", (), phased_settings(folder), ()))
    rows = data.split.open_phases().evaluation
    users = data.base.field2id_token["user_id"][data.user_ids[rows]]
    scores = dict(scored[-4:])
    for phase in NAMES:
        assert result.test[f"{phase}/auc"] == auc(data.labels[rows], scores[phase])
    both = [u for u in np.unique(users) if 0 < data.labels[rows][users == u].mean() < 1]
    assert sorted(table.index) == sorted(both)
    for user in both[:5]:
        own = users == user
        assert table.loc[user, "warm-b/auc"] == auc(data.labels[rows][own], scores["warm-b"][own])


class TestNothingTooEarly:
    @pytest.mark.parametrize("model", ["DeepFM", "LightGCN", "EASE"])
    @pytest.mark.parametrize("part", ["evaluation", "warm-c", "warm-a"])
    def test_what_comes_later_changes_no_score(self, folder, tmp_path, scored, model, part):
        """The ratings of some rows of the cold items are turned round; scores change after a model has seen them."""
        rows = interactions()
        users, items, ratings, times = zip(*rows, strict=True)
        data = build_data(build_config(model, "phased", (), phased_settings(folder), ()))
        times, ratings = np.array(times), np.array(ratings, dtype=float)
        test = Phases.from_interactions(users, items, data.split.spec, times=times, ratings=ratings).open_phases()
        turned = set({"evaluation": test.evaluation, "warm-c": test.warm[2], "warm-a": test.warm[0]}[part])
        changed = [(u, i, 6 - r if k in turned and k % 3 else r, t) for k, (u, i, r, t) in enumerate(rows)]
        run_small(folder, model)
        before, phases = [*scored], [phase for phase, _ in scored]
        scored.clear()
        run_small(write_phased(tmp_path, changed), model)
        assert [phase for phase, _ in scored] == phases and phases[-8:] == [*NAMES, *NAMES]
        same = [np.array_equal(a, b) for (_, a), (_, b) in zip(before, scored, strict=True)]
        first = {"evaluation": 4, "warm-c": 3, "warm-a": 1}[part]  # phase of the test in which they are known
        assert all(same[: len(same) - 4 + first]) and not any(same[len(same) - 4 + first :])

    def test_the_test_rows_open_once_and_last(self, folder, monkeypatch):
        events = []

        def recorded(event, real):
            def call(*args, **kwargs):
                events.append(event)
                return real(*args, **kwargs)

            return call

        monkeypatch.setattr(Phases, "open_phases", recorded("test", Phases.open_phases))
        monkeypatch.setattr(TrainerHooks, "_train_epoch", recorded("train", TrainerHooks._train_epoch))
        run_small(folder, "DeepFM", epochs=2, update_epochs=1)
        assert events == ["train"] * 2 + ["train"] * 3 + ["test"] + ["train"] * 3

    def test_test_updates_start_from_the_chosen_weights(self, folder):
        result = run_small(folder, "DeepFM")
        model, data = load(result.run_folder)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert measure(data.config, data, model, "valid")[0] == result.valid
        assert measure(data.config, data, model, "test")[0] == result.test
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestTraining:
    def test_a_finished_run_is_returned_and_a_killed_one_goes_on(self, folder, tmp_path, monkeypatch):
        result = run_small(folder, "DeepFM")
        assert run_small(folder, "DeepFM", resume=True) == result
        real, calls = TrainerHooks._train_epoch, []

        def killed(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return real(self, *args, **kwargs)

        monkeypatch.setattr(TrainerHooks, "_train_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            run_small(folder, "DeepFM", run_dir=str(tmp_path))
        resumed = run_small(folder, "DeepFM", run_dir=str(tmp_path), resume=True)
        assert len(calls) == 4 + 2 * 3 * 5  # the third epoch, and the updates of two parts
        assert (resumed.test, resumed.valid) == (result.test, result.valid)

    def test_validation_in_a_later_phase_leaves_the_training_as_it_is(self, folder):
        cold = run_small(folder, "LightGCN")
        warm = run_small(folder, "LightGCN", valid_metric="warm-a/AUC")
        assert warm.stages[0]["train_loss"] == cold.stages[0]["train_loss"]
        assert set(warm.stages[0]["valid"]) == {"cold/auc", "cold/f1", "warm-a/auc", "warm-a/f1"}
        assert warm.stages[0]["best_valid"] == warm.valid["warm-a/auc"]

    def test_no_epochs_no_change(self, folder):
        test = run_small(folder, "FM", update_epochs=0).test
        assert len({test[f"{phase}/auc"] for phase in NAMES}) == 1

    @pytest.mark.parametrize("model", ["DeepFM", "BPR", "NeuMF", "MultiVAE"])
    def test_validation_and_test_learn_in_equally_many_steps(self, folder, model):
        settings = phased_settings(folder, **CHANGES.get(model, {}))
        config = build_config(model, "phased", (), settings, ())
        data = build_data(config)
        for new in (np.concatenate(part.warm) for part in (data.split.validation, data.split.open_phases())):
            later = data.knowing(np.concatenate([data.split.train, new]))
            assert len(_loader(config, later, later.dataset(new), 4)) == 4

    def test_choices_see_all_phases_of_validation_and_no_test_row(self, folder, monkeypatch):
        result = run_small(folder, "DeepFM")
        monkeypatch.setattr(Phases, "open_phases", lambda self: pytest.fail("test rows"))
        config = build_config("DeepFM", "phased", (), phased_settings(folder), ())
        assert validate(config) == result.valid


class TestOwnUpdate:
    @pytest.fixture(autouse=True)
    def _registered(self, monkeypatch):
        spec = registry.ModelSpec("phased:Fake", "adds labels up", default_protocol="emerg-phases", labelled=True)
        monkeypatch.setitem(registry.MODELS, "Fake", spec)
        monkeypatch.setattr(Fake, "shown", [])

    def test_it_is_shown_each_phase_s_rows_with_labels(self, folder):
        run_small(folder, "Fake", train_neg_sample_args=None, update_epochs=7, update_learning_rate=0.5)
        shown = [update for _, update, training in Fake.shown if training]
        assert [update.phase for update in shown] == NAMES[1:] * 2
        assert {(u.epochs, u.batches, u.learning_rate) for u in shown} == {(7, 4, 0.5)}
        data = build_data(build_config("Fake", "phased", (), self.settings(folder), ()))
        test = data.split.open_phases()
        for update, rows in zip(shown, (*data.split.validation.warm, *test.warm), strict=True):
            expected = sorted(zip(data.user_ids[rows], data.item_ids[rows], data.labels[rows], strict=True))
            found = zip(*(update.rows[k].tolist() for k in ("user_id", "item_id", "label")), strict=True)
            assert sorted(found) == expected and "colour" in update.rows.interaction

    def test_its_buffers_are_made_anew_and_its_weights_go_on(self, folder):
        result = run(model="Fake", dataset="phased", config_dict=self.settings(folder))
        chosen, data = load(result.run_folder)
        models = [model for model, _, _ in Fake.shown]
        n_train = len(data.split.train)
        added = [len(rows) for rows in data.split.validation.warm]
        assert [int(m.counts.sum()) for m in models[:3]] == (n_train + np.cumsum(added)).tolist()
        assert models[0].norm.running_mean != 0
        for model in models:
            assert torch.equal(model.bias.weight, chosen.bias.weight)
            assert torch.equal(model.norm.running_mean, chosen.norm.running_mean)
        for k in (0, 3):  # a part starts from the chosen weights, and a phase from those of the one before
            labels = np.cumsum([float((u.rows["label"] - 0.5).sum()) for _, u, _ in Fake.shown[k : k + 3]])
            assert [m.added.sum().item() for m in models[k : k + 3]] == pytest.approx(labels.tolist())
        assert chosen.added.abs().sum() == 0

    @staticmethod
    def settings(folder):
        return phased_settings(folder, train_neg_sample_args=None)

    def test_without_labels_it_is_shown_positive_rows_alone(self, folder, monkeypatch):
        spec = registry.ModelSpec("phased:Fake", "adds labels up", default_protocol="emerg-phases")
        monkeypatch.setitem(registry.MODELS, "Fake", spec)
        run_small(folder, "Fake", train_neg_sample_args=None)
        assert Fake.shown and all((update.rows["label"] == 1).all() for _, update, _ in Fake.shown)


@pytest.mark.parametrize("history", ["known", "all"])
def test_a_run_recommends(folder, history):
    result = run_small(folder, "EASE")
    lists = Recommender.from_run(result.run_folder, history=history).recommend(["u3", "u4"], topk=5)
    assert len(lists) == 10 and lists["item"].str.match("[hc]").all()


def test_lists_of_other_systems_are_refused(folder, tmp_path):
    settings = {key: value for key, value in phased_settings(folder).items() if key != "protocol"}
    with pytest.raises(ConfigError, match="'emerg-phases' ranks no items"):
        import_recommendations(
            tmp_path / "none.csv",
            label="x",
            dataset="phased",
            protocol="emerg-phases",
            settings=settings,
            out=tmp_path,
        )


@pytest.mark.parametrize("key", ["phases", "impressions"])
def test_other_runs_records_do_not_depend_on_a_protocols_code(key):
    settings = {"model": "EASE", "fast_graph": False, "phases": None, "impressions": None}
    own = modules_of_run(settings | {key: {"valid_share": 0.1}})
    assert modules_of_run(settings) == [] and len(own) == 2
    assert code_hash(*own) != code_hash()
    assert not set(own) & set(_imported(["recbole_llm.experiment.run"]))


class Here(Runner):
    """Runs jobs at once, in this process."""

    def start(self, job, out):
        future = Future()
        future.set_result(work(job, out))
        return future


@pytest.mark.slow
def test_a_comparison_chooses_tests_and_reports(folder, tmp_path):
    settings = phased_settings(folder)
    settings = {key: value for key, value in settings.items() if key not in ("protocol", "seed", "state", "run_dir")}
    rows = (Row("Pop", "Pop"), Row("DeepFM", "DeepFM", grid={"update_learning_rate": [0.001, 0.01]}))
    plan = Plan("phased", rows, ("emerg-phases",), seeds=2, tested=("cold/AUC", "warm-c/AUC"), settings=settings)
    records = execute(plan, tmp_path, runner=Here(), say=lambda line: None)
    assert {r.status for r in records} == {OK} and {r.tried for r in records} == {0, 2}
    write_about(tmp_path, About(reference="DeepFM", tested=plan.tested))
    text = markdown.render(make_report([tmp_path]))
    head = next(line for line in text.splitlines() if line.startswith("| row"))
    assert re.findall(r"[\w-]+/\w+", head)[:4] == ["cold/auc", "cold/f1", "warm-a/auc", "warm-a/f1"]
    assert "cold/auc: DeepFM minus each row, over users" in text and "warm-c/auc: DeepFM minus" in text
    assert "A run's metric is that of all scored rows in one pool; tests" in text
    assert "paired t-test over users, of the AUC of each one's own rows, which need not order rows as the pool" in text
    shown = markdown.render(make_report([tmp_path], metrics=["warm-a/auc"]))
    assert "warm-a/auc" in shown and "warm-a/f1" not in shown


def test_what_the_protocol_says_is_in_the_settings():
    config = build_config("DeepFM", "ml-100k", (), {"protocol": "emerg-phases"}, ())
    assert config["phases"] == {"hot_above": 200, "cold_from": 80, "phase_rows": 20, "valid_share": 0.2}
    assert config["threshold"] == {"rating": 4} and PHASES.keys() == config["phases"].keys()
    assert "age" in config["load_col"]["user"] and "class" in config["load_col"]["item"]


@pytest.mark.slow
def test_ml_100k_has_305_cold_items():
    config = build_config("Pop", "ml-100k", (), {"protocol": "emerg-phases"}, ())
    data = build_data(config)
    assert len(data.cold_items["test"]) == 305
    test = data.split.open_phases()
    assert [len(rows) for rows in test.warm] == [20 * 305] * 3
    assert len(test.evaluation) == data.split.n_test - 60 * 305
