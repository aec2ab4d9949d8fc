"""One run from configuration to record: files, one read of the test split, resume, load."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from synthetic import SMALL_SASREC, SMALL_UR4REC, cycle_settings, write_cycle

import recbole_llm
from recbole_llm.data.split import Split
from recbole_llm.errors import CheckpointError, ConfigError, RecBoleLLMError
from recbole_llm.evaluation.kernel import evaluate
from recbole_llm.experiment import RunResult, load, load_results, run
from recbole_llm.experiment.data import eval_data
from recbole_llm.trainer.hooks import TrainerHooks

TASKS = {"secondary_tasks": {"few": {"n_candidates": 5}}}
STAGES = [
    {"name": "pretrain_sasrec", "groups": {"sasrec": 0.01}},
    {"name": "pretrain_retriever", "groups": {"retriever": 0.01}},
    {"name": "end_to_end", "groups": {"sasrec": 0.001, "retriever": 0.001}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("cycle"))


def settings_of(folder, **changes) -> dict:
    quiet = {"state": "WARNING", "show_progress": False, "run_dir": str(folder / "runs")}
    return cycle_settings(folder) | SMALL_UR4REC | {"stages": STAGES, "epochs_per_stage": [2, 1, 1]} | quiet | changes


@pytest.fixture(scope="module")
def result(folder) -> RunResult:
    return run("UR4RecMoE", "cycle", settings_of(folder, **TASKS))


def home(folder, result: RunResult):
    """Its run folder; the record names it relative to the working directory."""
    return folder / "runs" / result.run_folder.rsplit("/", 1)[-1]


class TestRecord:
    def test_result_json_is_the_record(self, folder, result):
        line = (home(folder, result) / "result.json").read_text()
        assert "\n" not in line and RunResult.from_json(line) == result
        assert RunResult.from_json(result.to_json()) == result

    def test_what_was_run(self, folder, result):
        assert (result.model, result.dataset, result.protocol, result.seed) == ("UR4RecMoE", "cycle", "loo-full", 3)
        assert home(folder, result).name == f"UR4RecMoE-cycle-loo-full-s3-{result.config_hash[:8]}"
        assert result.config["sasrec_hidden_dim"] == 16
        assert set(result.features) == {"content", "theme", "quality", "visual", "genre", "mood", "style"}
        assert all(f["rows"] == 24 and f["coverage"] == 1.0 for f in result.features.values())
        assert [s["name"] for s in result.stages] == [s["name"] for s in STAGES]
        assert set(result.seconds) == {"load", "build", "train", "test", "valid"}
        assert min(result.seconds.values()) >= 0 and result.peak_bytes > 50e6 and result.n_parameters > 1000
        assert result.test_reads == 1 and result.versions["torch"] == torch.__version__

    def test_metrics_of_both_tasks(self, result):
        shares = ("ndcg", "hit", "recall", "mrr", "precision", "itemcoverage", "giniindex", "tailpercentage")
        names = {f"{m}@{k}" for m in (*shares, "averagepopularity", "novelty") for k in (5, 10, 20)}
        assert set(result.test) == names | {f"few/{name}" for name in names} == set(result.valid)
        assert all(0.0 <= v <= 1.0 for name, v in result.test.items() if name.split("/")[-1].split("@")[0] in shares)
        assert result.valid == result.stages[-1]["valid"]
        assert result.valid["ndcg@10"] == result.stages[-1]["best_valid"]

    def test_per_user_metrics_average_to_the_test_metrics(self, folder, result):
        table = pd.read_parquet(home(folder, result) / "per_user.parquet")
        assert sorted(table["user"]) == sorted(f"u{k}" for k in range(30))
        of_all_lists = ("itemcoverage", "giniindex")
        for name, value in result.test.items():
            if not name.split("/")[-1].startswith(of_all_lists):
                assert table[name].mean() == pytest.approx(value, abs=1e-12)
        assert table["ndcg@10"].nunique() > 1

    def test_slices_are_of_all_test_targets(self, result):
        assert set(result.slices) == {"head", "tail"}  # every item of the cycle is used
        assert sum(s["positives"] for s in result.slices.values()) == 30
        mean = sum(s["ndcg@10"] * s["rows"] for s in result.slices.values()) / 30  # one target a user
        assert mean == pytest.approx(result.test["ndcg@10"])

    def test_the_configuration_is_kept(self, folder, result):
        assert yaml.safe_load((home(folder, result) / "config.yaml").read_text()) == result.config

    def test_expert_usage_is_that_of_the_test(self, folder, result):
        assert set(result.experts) == {"user", "description", "visual", "item"}
        model, data = load(home(folder, result))
        test = eval_data(data.config, data, "test")
        with torch.no_grad():
            model.full_sort_predict(test.inputs)
        for modality, shares in model.expert_usage().items():
            assert shares == pytest.approx(result.experts[modality], abs=1e-5)

    def test_summary_shows_stages_experts_and_test(self, result):
        text = result.summary()
        for part in (
            "pretrain_retriever",
            "experts, visual: composition",
            "parameters",
            f"ndcg@10 {result.test['ndcg@10']:.4f}",
        ):
            assert part in text
        assert text.splitlines()[-1].startswith("test: ")

    def test_records_are_found_below_a_folder_and_in_lines(self, folder, result, tmp_path):
        assert result in load_results(folder / "runs")
        (tmp_path / "all.jsonl").write_text(result.to_json() + "\n" + result.to_json() + "\n")
        assert load_results(tmp_path / "all.jsonl") == [result, result]


class TestRunning:
    def test_the_package_gives_it_out(self):
        assert recbole_llm.run is run and recbole_llm.load is load

    def test_same_seed_same_numbers(self, folder, result, tmp_path):
        again = run("UR4RecMoE", "cycle", settings_of(folder, **TASKS, run_dir=str(tmp_path)))
        assert (again.test, again.valid, again.config_hash) == (result.test, result.valid, result.config_hash)
        assert again.experts == result.experts and again.split == result.split

    def test_resuming_a_finished_run_returns_its_record_without_work(self, folder, result, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("nothing is to be loaded")

        monkeypatch.setattr(sys.modules[run.__module__], "build_data", refuse)
        assert run("UR4RecMoE", "cycle", settings_of(folder, **TASKS), cli=["--resume"]) == result

    def test_without_resume_it_starts_anew(self, folder, tmp_path):
        settings = cycle_settings(folder) | SMALL_SASREC | {"epochs": 2, "state": "WARNING", "run_dir": str(tmp_path)}
        first = run("SASRecAll", "cycle", settings)
        (where,) = tmp_path.iterdir()
        (where / "best-9-old.pt").write_bytes(b"left over")
        second = run("SASRecAll", "cycle", settings)
        assert second.test == first.test and not (where / "best-9-old.pt").exists()
        assert len(second.stages[0]["train_loss"]) == 2

    def test_the_test_split_is_opened_exactly_once_and_last(self, folder, tmp_path, monkeypatch):
        events = []

        def recorded(event: str, real):
            def call(*args, **kwargs):
                events.append(event)
                return real(*args, **kwargs)

            return call

        monkeypatch.setattr(Split, "open_test", recorded("test", Split.open_test))
        monkeypatch.setattr(TrainerHooks, "_train_epoch", recorded("train", TrainerHooks._train_epoch))
        monkeypatch.setattr(TrainerHooks, "_valid_epoch", recorded("valid", TrainerHooks._valid_epoch))
        settings = cycle_settings(folder) | SMALL_SASREC | {"epochs": 2, "state": "WARNING", "run_dir": str(tmp_path)}
        run("SASRecAll", "cycle", settings)
        assert events == ["train", "valid", "train", "valid", "test"]

    def test_command_line_overrides_config_dict_overrides_files(self, folder, tmp_path):
        (tmp_path / "a.yaml").write_text("epochs: 5\nlearning_rate: 0.5\nhidden_size: 4\n")
        settings = cycle_settings(folder) | {"n_layers": 1, "state": "WARNING", "run_dir": str(tmp_path), "epochs": 4}
        result = run(
            "SASRecAll",
            "cycle",
            settings | {"learning_rate": 0.25},
            config_files=[tmp_path / "a.yaml"],
            cli=["--epochs=1"],
        )
        assert [result.config[k] for k in ("epochs", "learning_rate", "hidden_size")] == [1, 0.25, 4]

    def test_a_run_that_cannot_start_leaves_the_finished_one_of_its_settings(self, folder, tmp_path):
        """A slip, such as a feature file moved away, does not cost what has been trained."""
        copy = tmp_path / "data"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("runs"))
        settings = settings_of(copy, epochs_per_stage=[1, 1, 1])
        result = run("UR4RecMoE", "cycle", settings)
        (where,) = (copy / "runs").iterdir()
        before = {path.name: path.read_bytes() for path in where.iterdir() if path.name != "log.txt"}
        next(copy.rglob("cycle.content*")).unlink()
        with pytest.raises(RecBoleLLMError, match="content"):
            run("UR4RecMoE", "cycle", settings)
        assert {path.name: path.read_bytes() for path in where.iterdir() if path.name != "log.txt"} == before
        assert RunResult.from_json(before["result.json"].decode()) == result

    def test_says_on_stderr_what_it_does_and_keeps_a_log(self, folder, tmp_path, capsys):
        settings = settings_of(folder, run_dir=str(tmp_path), state="INFO", epochs_per_stage=[1, 1, 1])
        run("UR4RecMoE", "cycle", settings)
        shown = capsys.readouterr()
        assert shown.out == ""
        for part in (
            "content: 24/24 items, 100.0 %",
            "no image features: texts that describe the pictures stand in (visual)",
            "pretrain_sasrec 1/1: loss ",
        ):
            assert part in shown.err
        assert "pretrain_sasrec 1/1: loss " in next(tmp_path.glob("*/log.txt")).read_text()


class TestLoad:
    def test_scores_are_those_of_the_run(self, folder, result):
        model, data = load(home(folder, result))
        test = eval_data(data.config, data, "test")
        score = test.scorer(model, torch.device("cpu"))
        for task, prefix in zip(test.tasks, ("", "few/"), strict=True):
            metrics = evaluate(task, score, metrics=["ndcg", "mrr"], topk=[5, 10]).metrics
            for name, value in metrics.items():
                assert value == result.test[prefix + name]

    def test_from_anywhere(self, folder, result, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        model, data = load(str(home(folder, result)))
        assert not model.training and data.split.fingerprint == result.split

    def test_not_a_run_folder(self, tmp_path):
        with pytest.raises(CheckpointError, match="is not a run folder: it has no config.yaml"):
            load(tmp_path)

    def test_an_unfinished_run(self, folder, result, tmp_path):
        (tmp_path / "config.yaml").write_text((home(folder, result) / "config.yaml").read_text())
        with pytest.raises(CheckpointError, match=r"best\.pt does not exist"):
            load(tmp_path)

    def test_other_features_than_it_was_trained_with(self, tmp_path):
        write_cycle(tmp_path)
        settings = settings_of(tmp_path, epochs_per_stage=[1, 0, 0])
        done = run("UR4RecMoE", "cycle", settings)
        write_cycle(tmp_path, facet_dim=12, file_order=np.arange(24)[::-1])  # the same rows in another order
        load(home(tmp_path, done))
        file = tmp_path / "cycle" / "cycle.theme.safetensors"
        file.write_bytes((tmp_path / "cycle" / "cycle.mood.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match="the split or the features of .* have changed"):
            load(home(tmp_path, done))
        with pytest.raises(CheckpointError, match="belongs to another feature table"):
            (home(tmp_path, done) / "result.json").unlink()
            run("UR4RecMoE", "cycle", settings | {"resume": True})


def test_a_feature_that_the_dataset_lacks_is_named(folder):
    with pytest.raises(ConfigError, match="feature 'smell' is not among the features of dataset 'cycle'"):
        run("UR4RecMoE", "cycle", settings_of(folder, item_facets=["content", "theme", "smell"]))


def test_a_record_is_one_line_of_strict_json(result):
    json.loads(result.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
