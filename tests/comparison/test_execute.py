"""Execution: what is run again and what is not, grids, failures, kills. Runs are tiny; most stay in this process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from synthetic import SMALL_SASREC, SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.comparison import worker
from recbole_llm.comparison.execute import Processes, Runner, estimate, execute, in_order
from recbole_llm.comparison.plan import Plan, Row
from recbole_llm.comparison.record import FAILED, OK, per_user_file, read_records
from recbole_llm.comparison.worker import settings_of, work
from recbole_llm.config import build_config
from recbole_llm.experiment.validate import validate

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RUN = sys.modules["recbole_llm.experiment.run"]  # the package gives out a function of the same name


class Here(Runner):
    """Runs jobs at once, in this process; keeps what it ran."""

    def __init__(self) -> None:
        self.ran = []

    def start(self, job, out):
        self.ran.append(job.name)
        future = Future()
        future.set_result(work(job, out))
        return future


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_cycle(tmp_path_factory.mktemp("cycle"))


def plan_of(folder, rows, **changes) -> Plan:
    settings = cycle_settings(folder) | {"valid_metric": "NDCG@5"}
    return Plan(**{"dataset": "cycle", "rows": tuple(rows), "seeds": 2, "settings": settings} | changes)


POP, SHORT = Row("Pop", "Pop"), Row("short", "SASRecAll", SMALL_SASREC | {"epochs": 1})


def run(plan, out, **options):
    """Records, what ran, what was said."""
    here, said = Here(), []
    records = execute(plan, out, runner=here, say=said.append, **options)
    return records, here.ran, said


class TestResume:
    def test_a_finished_run_is_not_repeated(self, folder, tmp_path):
        plan = plan_of(folder, [POP, SHORT])
        first, ran, _ = run(plan, tmp_path)
        assert len(ran) == 3 and [r.status for r in first] == [OK] * 3
        assert all(per_user_file(tmp_path, r).is_file() for r in first)
        second, ran, said = run(plan, tmp_path)
        assert ran == [] and second == first and said[0].startswith("3 runs: 3 have a record, 0 to do")

    def test_a_record_means_the_same_in_a_copy_of_the_working_directory(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        away = plan_of(folder, [POP], seeds=1)
        (record,) = run(away, tmp_path / "out")[0]
        paths = {key: record.result.config[key] for key in ("data_path", "run_dir", "checkpoint_dir")}
        assert paths == {
            "data_path": str(folder / "cycle"),  # not below: it stays as it is
            "run_dir": "out/runs",
            "checkpoint_dir": f"out/runs/{record.run_name}",
        }
        own = worker._portable(
            {"dataset": "ml-100k", "data_path": "/env/ml-100k", "run_dir": "", "checkpoint_dir": None}
        )
        assert own["data_path"] == "ml-100k"

    def test_changed_settings_grid_code_or_data_are_run_again(self, folder, tmp_path, monkeypatch):
        own = write_cycle(tmp_path / "own")
        plan = plan_of(own, [POP, SHORT], seeds=1)
        out = tmp_path / "out"
        run(plan, out)
        more = Row("short", "SASRecAll", SMALL_SASREC | {"epochs": 2})
        assert run(plan_of(own, [POP, more], seeds=1), out)[1] == ["short, loo-full, seed 2020"]
        chosen = Row("short", "SASRecAll", SMALL_SASREC | {"epochs": 2}, {"n_layers": [1]})
        assert run(plan_of(own, [POP, chosen], seeds=1), out)[1] == ["short, loo-full, seed 2020"]
        before, _, _ = run(plan, out)
        file = own / "cycle" / "cycle.inter"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
        after, ran, _ = run(plan, out)
        assert ran == ["Pop, loo-full, seed 2020", "short, loo-full, seed 2020"]
        fresh, _, _ = run(plan, tmp_path / "fresh")
        for old, new, expected in zip(before, after, fresh, strict=True):  # not the old result under a new hash
            assert new.result.split == expected.result.split != old.result.split
            assert new.result.test == expected.result.test
        monkeypatch.setattr(worker, "code_hash", lambda *roots: "other code")
        assert len(run(plan, out)[1]) == 2

    def test_records_come_in_the_order_of_the_table(self, folder, tmp_path):
        plan = plan_of(folder, [SHORT, POP], protocols=("rs-full", "loo-full"))
        jobs = in_order(plan)
        assert [(j.protocol, j.label, j.seed) for j in jobs][:4] == [
            ("rs-full", "short", 2020),
            ("rs-full", "short", 2021),
            ("rs-full", "Pop", 2020),
            ("loo-full", "short", 2020),
        ]

    def test_only_the_plan_s_records_are_in_the_table_and_others_are_not_lost(self, folder, tmp_path):
        longer = Row("short", "SASRecAll", SMALL_SASREC | {"epochs": 2})
        first, _, _ = run(plan_of(folder, [POP, SHORT], seeds=1), tmp_path)
        assert run(plan_of(folder, [longer], seeds=1), tmp_path)[1] == ["short, loo-full, seed 2020"]
        assert [r.result.config["epochs"] for r in read_records(tmp_path)] == [2]
        again, ran, _ = run(plan_of(folder, [POP, SHORT], seeds=1), tmp_path)
        assert ran == [] and again == first == read_records(tmp_path)
        own = [POP, SHORT, Row("longer", "SASRecAll", longer.settings)]
        assert run(plan_of(folder, own, seeds=1), tmp_path)[1] == ["longer, loo-full, seed 2020"]

    def test_an_unfinished_run_goes_on_only_with_the_same_code(self, folder, tmp_path, monkeypatch):
        plan = plan_of(folder, [SHORT], seeds=1)
        seen = []
        monkeypatch.setattr(RUN, "run", lambda m, d, s: seen.append(s["resume"]) or 1 / 0)
        for code in ("a", "a", "b"):
            monkeypatch.setattr(worker, "code_hash", lambda *roots, code=code: code)
            (record,) = run(plan, tmp_path)[0]
            assert record.status == FAILED and "ZeroDivisionError" in record.reason
        assert seen == [False, True, False]


class TestGrid:
    ROW = Row("EASE", "EASE", {}, {"reg_weight": [0.001, 10.0, 1e7]})

    def test_validation_chooses(self, tmp_path, tiny_dataset):
        settings = {"data_path": str(tiny_dataset(tmp_path / "data")), "use_gpu": False, "topk": [5, 10]}
        plan = Plan("tiny", (self.ROW,), settings=settings)
        (record,) = run(plan, tmp_path / "out")[0]
        scores = {}
        for weight in self.ROW.grid["reg_weight"]:
            config = build_config(
                "EASE", "tiny", (), settings_of(plan.jobs()[0], tmp_path) | {"reg_weight": weight}, ()
            )
            scores[weight] = validate(config)["ndcg@10"]
        assert len(set(scores.values())) == 3  # there was something to choose
        assert record.chosen == {"reg_weight": max(scores, key=scores.get)} and record.tried == 3
        assert record.result.config["reg_weight"] == record.chosen["reg_weight"]
        assert record.result.valid["ndcg@10"] == max(scores.values())

    def test_the_first_seed_chooses_for_all(self, folder, tmp_path):
        row = Row("short", "SASRecAll", SMALL_SASREC | {"epochs": 1}, {"learning_rate": [0.00001, 0.01]})
        records, ran, _ = run(plan_of(folder, [row], seeds=3), tmp_path)
        assert [r.seed for r in records] == [2020, 2021, 2022] and ran[0].endswith("2020")
        assert {r.chosen["learning_rate"] for r in records} == {0.01}
        assert len(list((tmp_path / "grid").iterdir())) == 2  # trained once, not once a seed
        assert not list((tmp_path / "grid").glob("*/*.pt"))

    def test_a_record_s_code_is_that_of_its_run(self, folder, tmp_path):
        """A record whose hash leaves out what the run imports stays valid when that changes."""
        own = {"fast_graph": True, "epochs": 1, "embedding_size": 4}
        (record,) = run(plan_of(folder, [Row("LightGCN", "LightGCN", own, seeds=1)]), tmp_path)[0]
        assert record.code_hash == record.result.code_hash

    def test_each_split_chooses_for_itself(self, tiny_dataset, tmp_path):
        settings = {"data_path": str(tiny_dataset(tmp_path / "data")), "use_gpu": False}
        plan = Plan("tiny", (self.ROW,), ("rs-full",), seeds=2, split_per_seed=True, settings=settings)
        records = run(plan, tmp_path / "out")[0]
        assert len({r.result.split for r in records}) == 2 and [r.tried for r in records] == [3, 3]
        for job, record in zip(plan.jobs(), records, strict=True):
            made = settings_of(job, tmp_path)
            scores = {
                weight: validate(build_config("EASE", "tiny", (), made | {"reg_weight": weight}, ()))["ndcg@10"]
                for weight in self.ROW.grid["reg_weight"]
            }
            assert record.chosen == {"reg_weight": max(scores, key=scores.get)}

    def test_a_chosen_point_is_not_searched_again(self, folder, tmp_path):
        """Where the search's own files are gone, as in a copy of the records alone."""
        row = Row("EASE", "EASE", {}, {"reg_weight": [0.001, 10.0]}, seeds=1)
        ((first,), _, _) = run(plan_of(folder, [row]), tmp_path)
        shutil.rmtree(tmp_path / "grid")
        both, ran, _ = run(plan_of(folder, [replace(row, seeds=2)]), tmp_path)
        assert ran == ["EASE, loo-full, seed 2021"] and not (tmp_path / "grid").exists()
        assert [r.chosen for r in both] == [first.chosen] * 2 and [r.tried for r in both] == [2, 2]

    def test_points_that_cannot_be_trained_are_left_out(self, folder, tmp_path):
        row = Row("some", "SASRecAll", SMALL_SASREC | {"epochs": 1}, {"hidden_size": [7, 8]}, seeds=1)
        none = Row("none", "SASRecAll", SMALL_SASREC | {"epochs": 1}, {"hidden_size": [7, 9]}, seeds=1)
        records, _, _ = run(plan_of(folder, [row, none]), tmp_path)
        assert (records[0].chosen, records[0].tried, records[0].failed_points) == ({"hidden_size": 8}, 2, 1)
        assert records[1].status == FAILED
        assert records[1].reason.startswith("none of the 2 grid points gave a result; the first: a hidden size of 7")


class TestFailures:
    def test_a_row_that_cannot_run_stays_with_its_reason(self, folder, tmp_path):
        bad = Row("odd", "UR4RecMoE", SMALL_UR4REC | {"sasrec_loss": "hinge"})
        records, _, said = run(plan_of(folder, [POP, bad], seeds=1), tmp_path)
        by_label = {r.label: r for r in records}
        assert by_label["Pop"].status == OK
        reason = "sasrec_loss is 'hinge'; choose ce or infonce"
        assert (by_label["odd"].status, by_label["odd"].reason) == (FAILED, reason)
        assert any(f"] odd, loo-full, seed 2020: failed, {reason}" in line for line in said)

    def test_a_failed_run_is_tried_again(self, folder, tmp_path, monkeypatch):
        plan = plan_of(folder, [POP], seeds=1)
        monkeypatch.setattr(RUN, "run", lambda *_: (_ for _ in ()).throw(MemoryError()))
        assert run(plan, tmp_path)[0][0].reason == "out of memory"
        monkeypatch.undo()
        assert run(plan, tmp_path)[0][0].status == OK
        assert [r.status for r in read_records(tmp_path)] == [OK]

    def test_a_lack_of_memory_costs_one_row(self, folder, tmp_path):
        wide = Row("wide", "SASRecAll", SMALL_SASREC | {"hidden_size": 65536, "inner_size": 65536, "epochs": 1})
        plan = plan_of(folder, [wide, POP], seeds=1)
        records = execute(plan, tmp_path, jobs=2, memory_gib=6, say=lambda line: None)
        assert records[0].status == FAILED and "out of memory" in records[0].reason
        assert records[1].status == OK

    def test_a_killed_run_is_named(self, folder, tmp_path):
        plan = plan_of(folder, [Row("long", "SASRecAll", SMALL_SASREC | {"epochs": 10_000})], seeds=1)
        with Processes(1) as starter:
            future = starter.start(plan.jobs()[0], tmp_path)
            while not list(tmp_path.glob("runs/*/last.pt")):
                assert not future.done(), future.result()
                time.sleep(0.05)
            (process,) = starter._running
            process.kill()
            assert future.result().reason == "killed by the system, most likely for lack of memory"


def test_the_estimate_is_no_less_than_the_longest_chain_of_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Processes, "estimate", lambda self, job, out: 100.0)
    assert estimate(plan_of(folder, [SHORT], seeds=4), tmp_path, 2, print) == (200.0, True)
    assert estimate(plan_of(folder, [SHORT], seeds=1), tmp_path, 8, print) == (100.0, True)
    grid = Row("EASE", "EASE", {}, {"reg_weight": [1.0, 2.0, 3.0]}, seeds=3)  # three points, the first seed, the others
    assert estimate(plan_of(folder, [grid]), tmp_path, 8, print) == (500.0, True)


def test_the_estimate_bounds_the_run(folder, tmp_path):
    plan = plan_of(folder, [POP, Row("long", "SASRecAll", SMALL_SASREC | {"epochs": 40})], seeds=2)
    said = []
    before, bound = estimate(plan, tmp_path, 1, said.append)
    assert len(said) == 2 and said[0].startswith("Pop, loo-full: 1 x at most ")
    assert said[1].startswith("long, loo-full: 2 x at most ") and before > 0 and bound
    run(plan, tmp_path)
    assert estimate(plan, tmp_path, 1, said.append) == (0, True)
    longer = plan_of(folder, plan.rows, seeds=3)  # one more seed, known from the records
    spent = [sum(r.result.seconds.values()) for r in read_records(tmp_path) if r.label == "long"]
    assert estimate(longer, tmp_path, 1, said.append) == (pytest.approx(sum(spent) / 2), False)
    assert "at most" not in said[-1]
    other = [POP, Row("long", "SASRecAll", SMALL_SASREC | {"epochs": 400})]  # its records say nothing of this
    assert estimate(plan_of(folder, other, seeds=1), tmp_path, 1, said.append)[1] and "at most" in said[-1]


def test_kill_9_then_the_same_command_gives_the_same_table(folder, tmp_path):
    rows = ["Pop", {"label": "one", "model": "SASRecAll", "settings": SMALL_SASREC | {"epochs": 30}}]
    content = {"dataset": "cycle", "rows": rows, "seeds": 1, "settings": cycle_settings(folder)}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(content))

    def start(out):
        command = [sys.executable, str(ROOT / "run_recbole_llm.py"), "compare", str(file), "-o", str(out)]
        command += ["--no-estimate", "--json"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def finish(process):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        rows = json.loads(out.splitlines()[-1])["rows"]
        return {(r["label"], r["seed"]): (r["valid"], r["test"]) for r in rows}

    whole = finish(start(tmp_path / "whole"))
    broken = start(tmp_path / "broken")
    while not list((tmp_path / "broken").glob("runs/SASRecAll*/last.pt")):
        assert broken.poll() is None, broken.communicate()
        time.sleep(0.02)
    os.kill(broken.pid, signal.SIGKILL)
    broken.communicate()
    done = {r.key: per_user_file(tmp_path / "broken", r).stat().st_mtime_ns for r in read_records(tmp_path / "broken")}
    assert len(done) < 2
    assert finish(start(tmp_path / "broken")) == whole
    for record in read_records(tmp_path / "broken"):
        if record.key in done:  # was not run a second time
            assert per_user_file(tmp_path / "broken", record).stat().st_mtime_ns == done[record.key]
