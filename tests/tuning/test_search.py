"""Whole searches on a Ray of this machine: what they leave, kill -9, populations, equal budgets."""

import json
import os
import signal
import time

import pytest
import ray
import yaml
from sweeps import finish, read_trials, records, start, wait_for, write_sweep
from synthetic import SMALL_UR4REC, cycle_settings, write_cycle

from recbole_llm.cli import main
from recbole_llm.comparison.record import read_records
from recbole_llm.config import build_config
from recbole_llm.errors import ConfigError, TrainingError
from recbole_llm.experiment.validate import validate
from recbole_llm.tuning.ledger import FAILED, FINISHED, RUNNING, STOPPED, ranked
from recbole_llm.tuning.search import Resources, connect, search
from recbole_llm.tuning.shared import SharedData
from recbole_llm.tuning.sweep import make_sweep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_ray():
    """One Ray for the searches of this process: starting it takes longest."""
    connect(Resources())
    yield
    ray.shutdown()


def searched(tmp_path, lines=None, **content):
    sweep = make_sweep(write_sweep(tmp_path, **content), None, {}, {})
    return search(sweep, tmp_path / "out", Resources(), resume=False, say=([] if lines is None else lines).append)


def test_a_cluster_that_is_not_there():
    with pytest.raises(ConfigError, match="no Ray cluster at auto .*; start one with 'ray start --head'"):
        connect(Resources(address="auto"))


def test_a_sweep_from_the_file_to_the_test(one_ray, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"learning_rate": {"loguniform": [0.001, 0.05]}, "hidden_size": [16, 7]}  # 7 does not split into 2 heads
    file = write_sweep(tmp_path, 9, space=space, search="tpe", scheduler="asha", trials=6, seeds=2)
    assert main(["tune", str(file), "-o", "out", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert "6 trials and 4 runs of at most" in said.err and "[6/6] " in said.err

    trials = read_trials(tmp_path / "out")
    assert len(trials) == 6 and {t.status for t in trials} <= {FINISHED, STOPPED, FAILED}
    assert trials[0].default and trials[0].point == {"learning_rate": 0.002, "hidden_size": 16}
    failed = [t for t in trials if t.status == FAILED]
    assert failed and all(t.point["hidden_size"] == 7 and "does not split into 2 heads" in t.error for t in failed)
    best = ranked(trials)[0]
    assert found["best"]["score"] == best.score and found["best"]["settings"] == best.point
    assert [(r["seed"], r["test_reads"]) for r in found["runs"]] == [(2020, 1), (2021, 1)]
    assert "each of these runs read the test split once" in found["statement"]
    says = "By validation over 2 seeds the best" if best.number != 1 else "The best configuration is the default one."
    assert found["verdict"].startswith(says) and found["verdict"] in said.err
    if best.status == FINISHED:  # the run of the same seed is the trial once more
        assert found["runs"][0]["valid"]["ndcg@10"] == best.score
    tuned = [r for r in read_records(tmp_path / "out" / "final") if r.label == "SASRecAll, tuned"]
    before = [r for r in read_records(tmp_path / "out" / "final") if r.label == "SASRecAll, default"]
    assert len(tuned) == 2 and len(before) == len(found["default_runs"]) == 2 * (best.number != 1)
    if before and trials[0].status == FINISHED:
        assert before[0].result.valid["ndcg@10"] == trials[0].score
    record = tuned[1]
    assert record.tried == 6 and record.chosen == best.point and record.failed_points == len(failed)

    made = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert made["model"] == "SASRecAll" and made["learning_rate"] == best.point["learning_rate"]
    assert main(["train", "--config_files=out/best.yaml", "--seed=2020", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] == found["runs"][0]["valid"]

    text = (tmp_path / "out" / "results.md").read_text()
    assert "Leaderboard" not in text and "failed: ConfigError: a hidden size of 7" in text
    assert "Default and best configuration, by validation" in text and "SASRecAll, tuned" in text
    assert found["verdict"] in text or best.number == 1
    page = (tmp_path / "out" / "index.html").read_text()
    for title in ("Optimisation history", "Learning curves", "Parallel coordinates"):
        assert f"<h4>{title}</h4>" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and page.count("<svg") >= 3

    # the same command: refused, and with --resume nothing runs again
    assert main(["tune", str(file), "-o", "out"]) == 2
    assert "out holds a search already; go on with --resume" in capsys.readouterr().err
    before = records(tmp_path / "out")
    assert main(["tune", str(file), "-o", "out", "--resume"]) == 0
    assert records(tmp_path / "out") == before and "0 to do" in capsys.readouterr().err
    assert main(["tune", str(file), "-o", "out", "--resume", "--trials=7"]) == 2
    assert "holds another search (its trials is 6); start anew" in capsys.readouterr().err
    assert main(["tune", str(file), "-o", "elsewhere", "--resume"]) == 2
    assert "elsewhere holds no search to resume" in capsys.readouterr().err


def test_trials_start_from_the_first_stages_that_they_share(one_ray, tmp_path):
    """Through Ray: one checkpoint, made once, from which a trial gets to where a run of its settings gets by itself."""
    stages = [
        {"name": "pretrain_sasrec", "groups": {"sasrec": "sasrec_lr"}, "epochs": 2},
        {"name": "end_to_end", "groups": {"sasrec": "finetune_lr", "retriever": "finetune_lr"}, "epochs": 2},
    ]
    space = {"finetune_lr": {"loguniform": [0.0001, 0.01]}, "temperature": {"uniform": [0.05, 0.3]}}
    content = {"model": "UR4RecMoE", "shared_stages": 1, "later_settings": list(space), "trials": 3, "space": space}
    lines = []
    trials = searched(tmp_path, lines, epochs=2, settings=SMALL_UR4REC | {"stages": stages}, **content)
    assert lines[0] == "first stages, which all trials share: 1"
    first = tmp_path / "out" / "first_stages"
    assert {path.name for path in first.glob("*.pt")} == {"last.pt", "best-1-pretrain_sasrec.pt"}
    assert [t.status for t in trials] == [FINISHED] * 3
    for trial in trials:  # the first stage's epochs are told of by no trial
        assert [epoch for epoch, _ in trial.history] == [3, 4] and (trial.epochs, trial.compared_epochs) == (4, 2)
    sweep = make_sweep(tmp_path / "sweep.yaml", None, {}, {})
    last = trials[-1]
    config = build_config("UR4RecMoE", "cycle", (), sweep.settings_at(last.point) | {"use_gpu": False}, ())
    assert last.valid == pytest.approx(validate(config), abs=1e-6)
    written = (first / "last.pt").stat().st_mtime_ns
    (tmp_path / "out" / "trials.jsonl").unlink()  # as if it had been broken off after its last trial
    again = search(sweep, tmp_path / "out", Resources(), resume=True, say=lines.append)
    assert [t.history for t in again] == [t.history for t in trials]
    assert (first / "last.pt").stat().st_mtime_ns == written


def test_killed_without_warning_it_goes_on(tmp_path):
    """kill -9 of the driver: what had finished is not repeated, what ran goes on from its epoch."""
    file, out = write_sweep(tmp_path, 25, trials=3), tmp_path / "out"
    process = start(file, out)

    def ready(trials) -> bool:
        ended = [t for t in trials if t.status == FINISHED]
        return len(ended) >= 2 and any(t.status == RUNNING and t.epochs >= 5 for t in trials)

    wait_for(out, ready)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(out, lambda trials: not ray_of(out))
    before = {t.id: t for t in read_trials(out)}
    (broken,) = [t for t in before.values() if t.status == RUNNING]
    kept = records(out)

    finish(start(file, out, "--resume"))
    after = {t.id: t for t in read_trials(out)}
    assert set(after) == set(before) and all(t.status == FINISHED for t in after.values())
    assert all(records(out)[name] == text for name, text in kept.items() if name != broken.id)
    # it did not start anew: it goes on after the last epoch kept, which its record may not have told yet
    (at,) = after[broken.id].resumed
    assert at in (broken.epochs, broken.epochs + 1)
    assert [epoch for epoch, _ in after[broken.id].history] == list(range(1, 26))


def ray_of(out) -> bool:
    """Whether a trial's process still writes below the folder: Ray ends them a moment after their driver."""
    before = records(out)
    time.sleep(1.5)
    return records(out) != before


def test_grid(one_ray, tmp_path):
    trials = searched(tmp_path, epochs=1, search="grid", space={"n_layers": [1, 2], "hidden_size": {"int": [7, 8]}})
    points = sorted((t.point["n_layers"], t.point["hidden_size"], t.status) for t in trials)
    assert points == [(1, 7, FAILED), (1, 8, FINISHED), (2, 7, FAILED), (2, 8, FINISHED)]


def test_a_population_takes_over_what_is_better(one_ray, tmp_path):
    space = {"learning_rate": {"loguniform": [1e-6, 0.05]}}
    trials = searched(tmp_path, epochs=8, search="pbt", trials=4, grace_epochs=2, space=space)
    assert [t.status for t in trials] == [FINISHED] * 4 and all(t.epochs == 8 for t in trials)
    # a trial that takes another's place has its past
    assert len({t.history[0][1] for t in trials}) < 4 and all(
        [e for e, _ in t.history] == [*range(1, 9)] for t in trials
    )


def test_none_of_the_trials_gives_a_result(one_ray, tmp_path):
    with pytest.raises(
        TrainingError, match="none of the 2 trials gave a result; the first: ConfigError: a hidden size"
    ):
        searched(tmp_path, epochs=1, search="grid", space={"hidden_size": [7, 9]})


def test_the_time_ends_a_search(one_ray, tmp_path):
    trials = searched(tmp_path, epochs=100_000, trials=4, time=20, space={"hidden_size": [8, 16]})
    assert any(t.status == STOPPED and t.score is not None for t in trials)


def test_shared_data_are_mapped_not_copied(one_ray, tmp_path):
    config = build_config("BPR", "cycle", (), cycle_settings(write_cycle(tmp_path)), ())
    config["item_features"] = ["content"]
    mine = ray.get(ray.put(SharedData.prepare(config))).of(config)
    for array in (mine.user_ids, mine.features["content"].matrix, mine.base.inter_feat["item_id"].to_numpy()):
        assert not array.flags.writeable and not array.flags.owndata  # lies in the object store


def test_more_than_a_node_has(one_ray):
    with pytest.raises(ConfigError, match="no node has 1000 cores and 0 GPUs; ask for fewer with --cpus-per-trial"):
        connect(Resources(cpus=1000))
    with pytest.raises(ConfigError, match="a trial needs cores above 0"):
        Resources(cpus=0)


def test_compare_gives_every_model_the_same_budget(one_ray, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_sweep(tmp_path, 2)
    settings = yaml.safe_load(file.read_text())["settings"]
    rows = ["Pop", {"model": "EASE"}, {"label": "fixed", "model": "SASRecAll", "grid": {"learning_rate": [0.1]}}]
    plan = {"dataset": "cycle", "protocols": ["loo-full"], "seeds": 1, "settings": settings, "rows": rows}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert main(["compare", "plan.yaml", "-o", "out", "--tuned=2", "--no-estimate"]) == 0
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    tried = table[0].index("tried")
    assert [(row[0].lstrip("| "), row[tried]) for row in table[2:]] == [("Pop", "–"), ("EASE", "2"), ("fixed †", "2")]
    text = (tmp_path / "out" / "results.md").read_text()
    assert "chosen by a search of that many trials, which hold no test row (budget: 2)" in text
    assert main(["compare", "plan.yaml", "-o", "out", "--tuned=2", "--no-estimate"]) == 0
    assert "3 have a record, 0 to do" in capsys.readouterr().err
