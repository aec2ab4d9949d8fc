"""The same run from its record alone: equal to the last digit, or the difference explained."""

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from synthetic import SMALL_SASREC, SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.cli import dispatch
from recbole_llm.errors import ConfigError, DataError, FeatureError
from recbole_llm.experiment import RunResult, run
from recbole_llm.experiment.find import Recorded, find_run
from recbole_llm.experiment.reproduce import Reproduction, reproduce

module = sys.modules[reproduce.__module__]
QUIET = {"state": "WARNING", "show_progress": False, "epochs": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("cycle"))


def made(folder, model: str, **changes) -> Path:
    """Run folder of a small run below ``folder``/runs."""
    settings = cycle_settings(folder) | QUIET | {"run_dir": str(folder / "runs")} | changes
    result = run(model, "cycle", settings)
    return folder / "runs" / Path(result.run_folder).name


@pytest.fixture(scope="module")
def home(folder):
    return made(folder, "SASRecAll", **SMALL_SASREC)


@pytest.fixture
def copy(home, tmp_path):
    """A run folder of its own, and a function that rewrites fields of its record."""
    where = tmp_path / "copy" / home.name
    shutil.copytree(home, where)

    def change(**fields) -> Path:
        record = json.loads((where / "result.json").read_text())
        (where / "result.json").write_text(json.dumps(record | fields))
        return where

    return change


@pytest.fixture
def command():
    """The command line; returns the exit code."""
    return lambda *arguments: dispatch.main(["reproduce", *map(str, arguments)])


@pytest.fixture
def untrained(monkeypatch):
    """Nothing may be trained; what would have been is in the list."""
    configs = []

    def refuse(config):
        configs.append(config)
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(module, "run_config", refuse)
    return configs


class TestExact:
    def test_a_model_of_ours(self, home, tmp_path):
        before = (home / "result.json").read_bytes()
        done = reproduce(find_run(home), run_dir=tmp_path / "again")
        assert done.equal and done.users == (0, 30) and done.differing == {} and done.explained_by == []
        assert done.now.test == done.recorded.test and set(done.metrics) == {
            f"{part}/{name}" for part in ("valid", "test") for name in done.recorded.test
        }
        # the settings of a restored configuration are those of the record
        assert done.now.config_hash == done.recorded.config_hash
        assert done.text().splitlines()[-1] == "reproduced exactly"
        assert "code, settings, data, versions, machine: the same" in done.text()
        assert (home / "result.json").read_bytes() == before
        assert Path(done.now.run_folder).resolve() == (tmp_path / "again" / home.name).resolve()

    def test_a_model_of_recbole_by_the_command(self, folder, tmp_path, command, capsys):
        home = made(folder, "BPR", embedding_size=8, learning_rate=0.05)
        assert command(home / "result.json", f"--run-dir={tmp_path}", "--json") == 0
        shown = capsys.readouterr()
        answer = json.loads(shown.out)
        assert answer["equal"] is True and answer["explained_by"] == [] and answer["users"] == {"differ": 0, "all": 30}
        recorded = RunResult.from_json((home / "result.json").read_text())
        assert answer["metrics"]["test/ndcg@10"] == dict.fromkeys(("recorded", "now"), recorded.test["ndcg@10"])
        assert len(answer["metrics"]) == 2 * len(recorded.test) and 0 < recorded.test["ndcg@10"] < 1
        assert "again: BPR, cycle, loo-full, seed 3" in shown.err

    def test_no_run_is_written_over(self, home, monkeypatch):
        taken = []

        def pretend(config):
            taken.append(module.run_folder(config))
            taken[-1].mkdir(parents=True)
            return RunResult.from_json((home / "result.json").read_text())

        monkeypatch.setattr(module, "run_config", pretend)
        root = home.parent
        try:
            for _ in range(2):
                reproduce(find_run(home), run_dir=root)
        finally:
            for number in "23":
                shutil.rmtree(root / number, ignore_errors=True)
        assert taken == [root.resolve() / number / home.name for number in "23"]

    def test_threads_are_those_of_the_record(self, home, tmp_path, monkeypatch):
        recorded, seen = find_run(home), []
        recorded = replace(recorded, result=replace(recorded.result, machine={"threads": torch.get_num_threads() + 1}))

        def pretend(config):
            seen.append(torch.get_num_threads())
            return recorded.result

        monkeypatch.setattr(module, "run_config", pretend)
        before = torch.get_num_threads()
        reproduce(recorded, run_dir=tmp_path)
        reproduce(recorded, run_dir=tmp_path, threads=before + 2)
        assert seen == [before + 1, before + 2] and torch.get_num_threads() == before


class TestDifferent:
    def test_a_metric_that_does_not_come_out_again_is_named(self, copy, tmp_path, command, capsys):
        where = copy()
        test = json.loads((where / "result.json").read_text())["test"]
        changed = test["mrr@10"] + 0.125
        copy(test=test | {"mrr@10": changed})
        assert command(where, f"--run-dir={tmp_path}") == 1
        lines = capsys.readouterr().out.splitlines()
        (line,) = [line for line in lines if line.startswith("test/mrr@10 ")]
        assert line.split()[1:] == [repr(changed), repr(test["mrr@10"]), "0.125"]
        assert all(line.split()[-1] == "0" for line in lines if "/" in line.split()[0] and "mrr@10" not in line)
        assert lines[-1].startswith(f"differs: 1 of {2 * len(test)} metrics, and nothing that a record holds explain")

    def test_what_else_differs_is_said_before_and_after(self, copy, tmp_path, command, capsys):
        where = copy()
        record = json.loads((where / "result.json").read_text())
        del record["test"]["hit@5"]
        copy(
            test=record["test"],
            code_hash="0" * 64,
            commit="1" * 40,
            versions=record["versions"] | {"torch": "2.0.0"},
            machine=record["machine"] | {"processor": "abacus"},
        )
        assert command(where, f"--run-dir={tmp_path}", "--json") == 1
        shown = capsys.readouterr()
        answer = json.loads(shown.out)
        assert answer["metrics"]["test/hit@5"]["recorded"] is None and answer["equal"] is False
        code, torch_version, processor = answer["explained_by"]
        assert code.startswith("code: 000000000000 recorded, ") and "; commit 111111111111 recorded, " in code
        assert torch_version == f"torch: 2.0.0 recorded, {torch.__version__} now"
        assert processor.startswith("processor: abacus recorded, ")
        for line in answer["explained_by"]:
            assert f"differs from the record: {line}" in shown.err

    def test_one_user(self, home, copy, tmp_path):
        where = copy()
        table = pd.read_parquet(where / "per_user.parquet")
        table.loc[4, "ndcg@10"] += 1e-15 + table.loc[4, "ndcg@10"] * 1e-15
        table.sample(frac=1, random_state=0).to_parquet(where / "per_user.parquet")  # their order is none
        recorded = find_run(where)
        same = module._users(home / "per_user.parquet", home / "per_user.parquet")
        users = module._users(recorded.per_user, home / "per_user.parquet")
        assert (same, users) == ((0, 30), (1, 30))
        done = Reproduction(recorded.result, recorded.result, users)
        assert not done.equal and done.differing == {} and "users: 1 of 30 differ in a metric" in done.text()

    def test_without_the_recorded_users(self, copy):
        where = copy()
        (where / "per_user.parquet").unlink()
        recorded = find_run(where)
        assert module._users(recorded.per_user, where / "x.parquet") is None
        done = Reproduction(recorded.result, recorded.result)
        assert done.equal and json.loads(done.to_json())["users"] is None

    def test_equal_numbers_need_no_explanation(self, home):
        result = find_run(home).result
        done = Reproduction(result, replace(result, code_hash="0" * 64))
        assert done.explained_by == [] and "differs: code: " in done.text()
        assert done.text().splitlines()[-1] == "reproduced exactly"


class TestBeforeTraining:
    def test_changed_interactions(self, home, folder, tmp_path, command, untrained, capsys):
        shutil.copytree(folder / "cycle", tmp_path / "cycle")
        assert reproduction_is_tried(home, tmp_path, untrained)  # where nothing has changed
        file = tmp_path / "cycle" / "cycle.inter"
        file.write_text(file.read_text().replace("u3\ti5\t", "u3\ti6\t", 1))
        assert command(home, f"--run-dir={tmp_path}", f"--data-path={tmp_path}") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: the interactions of 'cycle' in ") and "are not those of the record" in error
        assert untrained == []

    def test_a_dataset_that_is_gone(self, copy, folder, tmp_path, command, untrained, capsys):
        record = json.loads((copy() / "result.json").read_text())
        where = copy(config=record["config"] | {"data_path": str(tmp_path / "gone" / "cycle")})
        assert command(where, f"--run-dir={tmp_path}") == 2
        assert "dataset 'cycle' not found" in capsys.readouterr().err
        assert untrained == [] and reproduction_is_tried(where, folder, untrained)

    def test_changed_features(self, tmp_path, untrained):
        write_cycle(tmp_path)
        stages = [{"name": "pretrain_sasrec", "groups": {"sasrec": 0.01}}]
        home = made(tmp_path, "UR4RecMoE", **SMALL_UR4REC, stages=stages, epochs_per_stage=[1])
        assert reproduction_is_tried(home, tmp_path, untrained)
        files = [tmp_path / "cycle" / f"cycle.{name}.safetensors" for name in ("theme", "mood")]
        files[0].write_bytes(files[1].read_bytes())
        with pytest.raises(FeatureError, match="feature 'theme' of 'cycle' is not that of the record"):
            reproduce(find_run(home), run_dir=tmp_path)
        files[0].unlink()
        with pytest.raises(FeatureError, match="feature 'theme': found no file"):
            reproduce(find_run(home), run_dir=tmp_path)
        assert untrained == []

    def test_imported_lists(self, home, tmp_path):
        result = replace(find_run(home).result, stages=[], model="imported")
        with pytest.raises(ConfigError, match="the record of Other holds no training, its lists were imported"):
            reproduce(Recorded("Other", result, home), run_dir=tmp_path)


def reproduction_is_tried(home: Path, data_path: Path, untrained: list) -> bool:
    """Whether every check before the training lets the run pass."""
    with pytest.raises(AssertionError, match="nothing is to be trained"):
        reproduce(find_run(home), run_dir=data_path / "none", data_path=data_path)
    return bool(untrained.pop())


class TestFind:
    def test_among_the_records_of_a_comparison(self, home, tmp_path, command, capsys):
        result = json.loads((home / "result.json").read_text())
        common = {"model": "SASRecAll", "dataset": "cycle", "protocol": "loo-full", "status": "ok"}
        entries = [
            common | {"label": label, "seed": seed, "result": result | {"seed": seed}, "status": "ok"}
            for label in ("ours", "theirs")
            for seed in (1, 2)
        ]
        entries[3] |= {"result": None, "status": "failed", "reason": "out of memory"}
        later = result | {"seed": 1, "peak_bytes": 7, "config_hash": "changed"}
        entries.append(entries[0] | {"result": later})
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (tmp_path / "records.jsonl").write_text(text)
        (tmp_path / "per_user").mkdir()
        shutil.copy(home / "per_user.parquet", tmp_path / "per_user" / f"{home.name}.parquet")
        for place in (tmp_path, tmp_path / "records.jsonl"):
            found = find_run(place, label="ours", seed=1)
            assert (found.label, found.result.seed, found.result.peak_bytes) == ("ours", 1, 7)
            assert found.per_user == tmp_path / "per_user" / f"{home.name}.parquet"
        with pytest.raises(DataError, match="the run of theirs, seed 2, has no result: out of memory"):
            find_run(tmp_path, label="theirs", seed=2)
        with pytest.raises(ConfigError, match=r"2 records of .* fit; choose one by --label, --seed.*label=ours seed=2"):
            find_run(tmp_path, label="ours")
        assert command(tmp_path, "--label=hers") == 2
        assert "0 records of " in capsys.readouterr().err

    def test_among_lines_of_runs(self, home, tmp_path):
        result = find_run(home).result
        other = replace(result, seed=9, run_folder="elsewhere")
        changed = replace(result, seed=5, config_hash="other settings")
        again = replace(result, seed=5)
        lines = [json.dumps(asdict(r)) for r in (result, other, changed, again, again)]
        (tmp_path / "runs.jsonl").write_text("\n".join(lines) + "\n\n")
        assert find_run(tmp_path / "runs.jsonl", seed=9) == Recorded(
            "SASRecAll", other, tmp_path / "per_user" / "elsewhere.parquet"
        )
        with pytest.raises(ConfigError, match="2 records of .* fit"):
            find_run(tmp_path / "runs.jsonl", seed=5)

    @pytest.mark.parametrize("line", ["no json", "[]", '{"model": "BPR", "seed": 1}', '{"label": "a", "result": {}}'])
    def test_lines_that_are_no_records(self, tmp_path, line):
        (tmp_path / "a.jsonl").write_text(line + "\n")
        with pytest.raises(DataError, match="holds a line that is no record of a run"):
            find_run(tmp_path / "a.jsonl")

    def test_no_such_place(self, tmp_path):
        with pytest.raises(DataError, match="neither a record nor a folder with result.json or records.jsonl"):
            find_run(tmp_path)
