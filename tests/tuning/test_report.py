"""What a search's trials say: ranks, importance, figures; the device of a trial."""

import math
from pathlib import Path

import numpy as np
import pytest

from recbole_llm.report import cells
from recbole_llm.tuning import figures
from recbole_llm.tuning.importance import importance
from recbole_llm.tuning.ledger import FAILED, FINISHED, STOPPED, Trial, ranked
from recbole_llm.tuning.report import _leaderboard
from recbole_llm.tuning.space import read_space
from recbole_llm.tuning.sweep import make_sweep
from recbole_llm.tuning.worker import Task

ENTRIES = {"learning_rate": {"loguniform": [0.0001, 0.01]}, "embedding_size": [8, 16], "n_layers": {"int": [1, 3]}}
SPACE = read_space(ENTRIES, "here")


def trials(n: int = 24) -> list[Trial]:
    """Scores that the learning rate decides, and the layers a little; the last one failed."""
    rng, found = np.random.default_rng(0), []
    for k in range(n):
        point = {
            "learning_rate": float(10 ** rng.uniform(-4, -2)),
            "embedding_size": [8, 16][k % 2],
            "n_layers": k % 3 + 1,
        }
        score = 0.3 - 0.1 * (math.log10(point["learning_rate"]) + 3) ** 2 + 0.01 * point["n_layers"]
        status = STOPPED if k % 4 == 0 else FINISHED
        found.append(Trial(f"t{k}", point, status, k + 1, False, score, score, 2, history=[[1, 0.1], [2, score]]))
    return [*found, Trial("bad", dict(point), FAILED, n + 1, error="ConfigError: a | b")]


def test_ranks_leave_failures_out():
    best = ranked(trials())
    assert len(best) == 24 and best[0].score == max(t.score for t in trials() if t.score is not None)


def test_importance_finds_what_decides_and_repeats():
    shares = importance(SPACE, trials())
    assert next(iter(shares)) == "learning_rate" and shares["learning_rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1) and shares == importance(SPACE, trials())
    assert importance(SPACE, trials(3)[:3]) == {}  # too few to say anything
    assert importance(SPACE, [t.now(score=0.5, order=0.5) for t in trials()[:9]]) == {}


def test_figures_are_the_same_bytes_each_time():
    shares = importance(SPACE, trials())
    pictures = figures.draw(SPACE, trials(), shares, "ndcg@10", "search")
    titles = ["Optimisation history", "Learning curves", "Parallel coordinates", "Importance of settings"]
    assert [p.title for p in pictures] == titles
    assert "hollow where it was stopped" in pictures[0].caption and "learning_rate 9" in pictures[3].caption
    assert pictures == figures.draw(SPACE, trials(), shares, "ndcg@10", "search")
    (one,) = [p for p in figures.draw(SPACE, trials(1)[:1], {}, "ndcg@10", "search") if p.title == titles[2]]
    assert one.svg.startswith("<svg")


def test_the_leaderboard_names_failures():
    sweep = make_sweep(None, None, {"model": "BPR", "dataset": "ml-100k", "space": SPACE}, {})
    grid = _leaderboard(sweep, trials(), "ndcg@10")
    assert [c.title for c in grid.columns] == ["trial", "valid ndcg@10", "ended", "epochs", "seconds", *ENTRIES]
    best = ranked(trials())[0]
    assert grid.rows[0][:3] == (
        cells.Cell(f"trial {best.number}"), cells.Cell(cells.number(best.score), 1), cells.Cell(best.status),
    )  # fmt: skip
    assert grid.rows[-1][:2] == (cells.Cell("trial 25"), cells.Cell("failed: ConfigError: a | b", span=4))
    assert all(sum(cell.span for cell in row) == len(grid.columns) for row in grid.rows)


@pytest.mark.parametrize(("gpus", "use"), [(0.0, False), (0.25, True), (1.0, True)])
def test_a_trial_takes_the_first_of_the_gpus_that_ray_shows_it(gpus, use):
    sweep = make_sweep(None, None, {"model": "BPR", "dataset": "ml-100k"}, {"gpu_id": "3"})
    config = Task(sweep, Path("out"), {}, gpus=gpus).config({})
    assert (config["gpu_id"], config["use_gpu"]) == ("0", use)
