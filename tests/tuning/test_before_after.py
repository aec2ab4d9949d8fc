"""The default configuration against the one that was found, over the seeds of both."""

import statistics

import pytest
from report_data import make_result

from recbole_llm.comparison.record import FAILED, OK, Record
from recbole_llm.tuning import final
from recbole_llm.tuning.before_after import DEFAULT, TUNED, before_after
from recbole_llm.tuning.ledger import FINISHED, Trial
from recbole_llm.tuning.report import _before_after


def record(name: str, seed: int, score: float | None, *, metric: str = "NDCG@10", bigger: bool = True) -> Record:
    config = {"valid_metric": metric, "valid_metric_bigger": bigger, "learning_rate": 0.01}
    # tests tell the other way round, and must not matter
    result = make_result(
        "BPR", seed, {}, config=config, valid={metric.lower(): score}, test={metric.lower(): -(score or 0)}
    )
    status = (FAILED, "killed", None) if score is None else (OK, "", result)
    return Record(f"BPR, {name}", "BPR", "toy", "rs-full", seed, status[0], status[1], result=status[2])


def records(default: list, tuned: list, **more) -> list[Record]:
    made = [record(TUNED, seed, score, **more) for seed, score in enumerate(tuned)]
    return made + [record(DEFAULT, seed, score, **more) for seed, score in enumerate(default)]


@pytest.mark.parametrize(("bigger", "gained"), [(True, False), (False, True)])
def test_means_over_the_same_seeds_say_which_is_better(bigger, gained):
    found = before_after(records([0.30, 0.32, 0.34], [0.33, 0.31, 0.29], bigger=bigger))
    assert found.scores(DEFAULT) == [0.30, 0.32, 0.34] and found.scores(TUNED) == [0.33, 0.31, 0.29]
    assert found.gained is gained and found.metric == "ndcg@10"
    assert statistics.stdev(found.scores(TUNED)) == pytest.approx(0.02)
    assert found.mean_sd(TUNED) == "0.3100 ± 0.0200"
    numbers = "ndcg@10 0.3100 ± 0.0200 against 0.3200 ± 0.0200 of the default"
    says = f"is better: {numbers}." if gained else f"is not better: {numbers}; keep the default."
    assert found.verdict() == f"By validation over 3 seeds the best configuration {says}"


def test_a_seed_that_failed_counts_for_neither():
    found = before_after(records([0.30, 0.90], [0.31, None]))
    assert found.scores(DEFAULT) == [0.30] and found.gained
    assert found.verdict() == (
        "By validation with one seed the best configuration is better: ndcg@10 0.3100 against 0.3000 of the default."
    )
    assert before_after(records([0.30], [None])) is None and before_after(records([], [0.30])) is None


def test_equal_is_no_gain():
    assert not before_after(records([0.3, 0.3], [0.3, 0.3])).gained


TRIALS = [
    Trial("a", {"learning_rate": 0.01}, FINISHED, 1, True, 0.30, 0.30, 2),
    Trial("b", {"learning_rate": 0.05}, FINISHED, 2, False, 0.31, 0.31, 2),
]


@pytest.mark.parametrize(
    ("trials", "runs", "says"),
    [
        (TRIALS, records([0.3], [0.31]), "By validation with one seed the best configuration is better"),
        (TRIALS[:1], records([], [0.3]), "The best configuration is the default one."),
        (TRIALS, records([0.3], [None]), "No seed has a result of both the best and the default configuration"),
        (TRIALS[1:], records([], [0.3]), "No trial of the default configuration gave a score"),
    ],
)
def test_the_record_says_whether_the_search_has_found_something(trials, runs, says):
    assert final._verdict(trials, runs).startswith(says)


def test_the_report_shows_the_trials_and_the_runs():
    runs = before_after(records([0.32, 0.34], [0.31, 0.29]))
    grid = _before_after(*TRIALS, "ndcg@10", runs)
    assert [c.title for c in grid.columns] == [
        "configuration", "trial", "valid ndcg@10 of the trial", "valid ndcg@10, 2 seeds", "settings"
    ]  # fmt: skip
    shown = [[cell.text for cell in row] for row in grid.rows]
    assert shown[0] == ["default", "trial 1", "0.3000", "0.3300 ± 0.0141", "learning_rate=0.01"]
    assert shown[1][2:4] == ["0.3100", "0.3000 ± 0.0141"]
    assert [row[3].rank for row in grid.rows] == [1, 0] and grid.notes == (runs.verdict(),)
    alone = _before_after(*TRIALS, "ndcg@10", None)
    assert len(alone.columns) == 4 == len(alone.rows[0]) and not alone.notes
