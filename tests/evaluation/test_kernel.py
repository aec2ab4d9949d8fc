"""The ranking kernel: written-out fractions, a naive loop, RecBole's evaluator and ranx as oracles."""

import json
import os
import subprocess
import sys
import weakref
from collections import Counter
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.evaluation.kernel import evaluate
from recbole_llm.evaluation.task import EvalTask

ACCURACY = ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP"]
BEYOND = ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]


def task_of(positives, n_items, masked=(), candidates=None):
    """A task from a list of positives (and masked items) per row."""

    def pairs(lists):
        return (
            np.array([row for row, items in enumerate(lists) for _ in items], dtype=int),
            np.array([item for items in lists for item in items], dtype=int),
        )

    return EvalTask.build(
        "t", "test", n_items, targets=pairs(positives), known=pairs(masked), candidates=candidates, split_fingerprint=""
    )


def scorer(scores):
    scores = torch.as_tensor(np.asarray(scores, dtype=np.float32))
    return lambda rows: scores[rows]


def random_task(rng, n_rows, n_items, n_candidates=None):
    positives = [rng.choice(np.arange(1, n_items), rng.integers(1, 6), replace=False) for _ in range(n_rows)]
    masked = [rng.choice(np.arange(1, n_items), n_items // 4, replace=False) for _ in range(n_rows)]
    candidates = None
    if n_candidates:
        candidates = {
            row: rng.choice(np.setdiff1d(np.arange(1, n_items), positives[row]), n_candidates, replace=False)
            for row in range(n_rows)
        }
    return task_of(positives, n_items, masked, candidates)


def distinct_scores(rng, n_rows, n_items):
    """No ties, so that every oracle agrees on the order."""
    return rng.permuted(np.tile(np.arange(n_items, dtype=np.float32), (n_rows, 1)), axis=1)


def rankable(task, row):
    """Items that may be recommended to a row, by plain Python."""
    masked = set(task.mask_items[task.mask_indptr[row] : task.mask_indptr[row + 1]].tolist())
    items = range(1, task.n_items) if task.candidates is None else task.candidates[row].tolist()
    return [item for item in items if item and item not in masked]


def positives_of(task, row):
    return set(task.pos_items[task.pos_indptr[row] : task.pos_indptr[row + 1]].tolist())


def naive(task, scores, k):
    """All accuracy metrics of every row by a plain loop."""
    table = []
    for row in range(len(task)):
        items, positives = rankable(task, row), positives_of(task, row)
        best = sorted((i for i in items if scores[row, i] > -np.inf), key=lambda i: -scores[row, i])[:k]
        hits = [rank for rank, item in enumerate(best, 1) if item in positives]
        others = [item for item in items if item not in positives]
        pairs = [(scores[row, p], scores[row, o]) for p in positives for o in others]
        table.append(
            {
                "top": best,
                "recall": len(hits) / len(positives),
                "precision": len(hits) / k,
                "hit": float(bool(hits)),
                "mrr": 1 / hits[0] if hits else 0.0,
                "map": sum(n / rank for n, rank in enumerate(hits, 1)) / min(len(positives), k),
                "ndcg": sum(1 / log2(rank + 1) for rank in hits)
                / sum(1 / log2(rank + 1) for rank in range(1, min(len(positives), k) + 1)),
                "auc": sum((p > o) + (p == o) / 2 for p, o in pairs) / len(pairs) if pairs else np.nan,
            }
        )
    return table


def test_three_users_written_out():
    task = task_of([[1, 2], [4], [5]], n_items=6, masked=[[3], [1], []])
    scores = [
        [99, 5, 1, 9, 4, 3],  # 3 is masked: 1 4 5 2; positives 1 and 2 at ranks 1 and 4
        [99, 9, 5, 4, 3, 2],  # 1 is masked: 2 3 4 5; positive 4 at rank 3
        [99, 1, 2, 3, 4, 5],  # 5 4 3 2 1; positive 5 at rank 1
    ]
    result = evaluate(task, scorer(scores), metrics=[*ACCURACY, "AUC"], topk=[1, 3])
    ideal_of_two = 1 + 1 / log2(3)
    assert result.metrics == approx(
        {
            "recall@1": (1 / 2 + 0 + 1) / 3,
            "recall@3": (1 / 2 + 1 + 1) / 3,
            "mrr@1": 2 / 3,
            "mrr@3": (1 + 1 / 3 + 1) / 3,
            "ndcg@1": 2 / 3,
            "ndcg@3": (1 / ideal_of_two + 1 / 2 + 1) / 3,
            "hit@1": 2 / 3,
            "hit@3": 1,
            "precision@1": 2 / 3,
            "precision@3": 1 / 3,
            "map@1": 2 / 3,
            "map@3": (1 / 2 + 1 / 3 + 1) / 3,
            "auc": (2 / 4 + 1 / 3 + 1) / 3,
        },
        rel=1e-15,
    )
    assert result.per_user["recall@3"] == approx([1 / 2, 1, 1])
    assert result.top_items.tolist() == [[1, 4, 5], [2, 3, 4], [5, 4, 3]]
    assert result.user_ids.tolist() == [0, 1, 2]


@st.composite
def tasks_with_scores(draw):
    n_items, n_rows = draw(st.integers(3, 12)), draw(st.integers(1, 5))
    item = st.integers(1, n_items - 1)
    positives = [draw(st.sets(item, min_size=1, max_size=4)) for _ in range(n_rows)]
    masked = [draw(st.sets(item, max_size=n_items)) for _ in range(n_rows)]
    candidates = draw(st.none() | st.just([draw(st.sets(item)) for _ in range(n_rows)]))
    candidates = candidates and {row: np.array(sorted(items), dtype=int) for row, items in enumerate(candidates)}
    order = [draw(st.permutations(range(n_items))) for _ in range(n_rows)]
    scores = np.array(order, dtype=np.float32)
    for row in range(n_rows):
        excluded = draw(st.sets(item, max_size=2))
        scores[row, list(excluded)] = -np.inf  # as a model does that masks by itself
    scores[0, min(positives[0])] = 100  # something can be recommended
    return task_of(positives, n_items, masked, candidates), scores


@settings(deadline=None)
@given(tasks_with_scores(), st.integers(1, 15), st.sampled_from([None, 1, 2]))
def test_against_a_naive_loop(drawn, k, batch_size):
    task, scores = drawn
    names = [*ACCURACY, "AUC"]
    expected = naive(task, scores, k)
    if all(np.isnan(row["auc"]) for row in expected):
        names = ACCURACY
    result = evaluate(task, scorer(scores), metrics=names, topk=[k], batch_size=batch_size)
    for row, values in enumerate(expected):
        assert [item for item in result.top_items[row].tolist() if item] == values["top"]
    for name in (name.lower() for name in names):
        key = name if name == "auc" else f"{name}@{k}"
        assert result.per_user[key] == approx([values[name] for values in expected], abs=1e-12, nan_ok=True)
        assert result.metrics[key] == approx(np.nanmean([values[name] for values in expected]), abs=1e-12)
        assert 0 <= result.metrics[key] <= 1 + 1e-12


@settings(deadline=None, max_examples=50)
@given(tasks_with_scores(), st.integers(1, 3))
def test_auc_counts_ties_one_half(drawn, n_levels):
    task, scores = drawn
    finite = np.isfinite(scores)
    scores[finite] %= n_levels  # many ties
    expected = [values["auc"] for values in naive(task, scores, 1)]
    if not np.isnan(expected).all() and np.isfinite(scores[:, 1:]).any():
        assert evaluate(task, scorer(scores), metrics=["AUC"]).per_user["auc"] == approx(expected, nan_ok=True)


def test_without_anything_to_compare_auc_is_an_error():
    task = task_of([[1]], n_items=3, masked=[[2]])
    with pytest.raises(DataError, match="auc is undefined"):
        evaluate(task, scorer([[0, 1, 2]]), metrics=["AUC"])


@pytest.mark.parametrize("n_candidates", [None, 30])
@pytest.mark.parametrize("tail_ratio", [0.1, 3])
def test_against_recbole(n_candidates, tail_ratio):
    from recbole_llm import compat

    compat.apply()
    from recbole.evaluator import Collector, Evaluator

    rng = np.random.default_rng(3)
    n_rows, n_items, topk = 40, 80, [1, 5, 10]
    task = random_task(rng, n_rows, n_items, n_candidates)
    scores = distinct_scores(rng, n_rows, n_items)
    counts = np.concatenate([[0], rng.integers(0, 8, n_items - 1)])

    config = {
        "metrics": [*ACCURACY, "GAUC", *BEYOND],
        "topk": topk,
        "metric_decimal_place": 10,
        "eval_args": {"mode": "full"},
        "device": "cpu",
        "tail_ratio": tail_ratio,
        "ITEM_ID_FIELD": "item_id",
    }
    collector = Collector(config)
    collector.data_struct.set("data.num_items", n_items)
    collector.data_struct.set("data.count_items", Counter({i: int(c) for i, c in enumerate(counts) if c}))
    theirs = np.full_like(scores, -np.inf)
    for row in range(n_rows):
        theirs[row, rankable(task, row)] = scores[row, rankable(task, row)]
    pos_rows = torch.tensor(np.repeat(np.arange(n_rows), task.n_pos))
    collector.eval_batch_collect(torch.tensor(theirs), None, pos_rows, torch.tensor(task.pos_items))
    expected = dict(Evaluator(config).evaluate(collector.get_data_struct()))

    ours = evaluate(
        task,
        scorer(scores),
        metrics=[*ACCURACY, "AUC", *BEYOND],
        topk=topk,
        item_counts=counts,
        tail_ratio=tail_ratio,
        batch_size=7,
    )
    gauc = expected.pop("gauc")
    assert np.average(ours.per_user["auc"], weights=task.n_pos) == approx(gauc, abs=1e-6)  # theirs is float32
    # RecBole has no novelty
    found = {key: value for key, value in ours.metrics.items() if key != "auc" and not key.startswith("novelty")}
    assert found == approx(expected, abs=1e-9)


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
qrels, run, names = json.load(open(sys.argv[1]))
print(json.dumps(evaluate(Qrels(qrels), Run(run), names)))
"""


@pytest.mark.slow
def test_against_ranx(tmp_path):
    rng = np.random.default_rng(5)
    task = random_task(rng, 30, 60)
    scores = distinct_scores(rng, 30, 60)
    qrels = {f"r{row}": {str(item): 1 for item in positives_of(task, row)} for row in range(30)}
    run = {f"r{row}": {str(i): float(scores[row, i]) for i in rankable(task, row)} for row in range(30)}
    pairs = {
        f"{theirs}@{k}": f"{ours}@{k}"
        for theirs, ours in [("hit_rate", "hit"), *((name, name) for name in ("recall", "precision", "ndcg", "mrr"))]
        for k in (5, 20)
    }
    # ranx divides average precision by all positives, RecBole by min(n_pos, k): equal from k = 5 = most positives on
    pairs["map@20"] = "map@20"
    (tmp_path / "ranx.json").write_text(json.dumps([qrels, run, list(pairs)]))
    # interpreted, as compiling ranx takes minutes; numba reads the switch once, hence a process of its own
    done = subprocess.run(
        [sys.executable, "-c", RANX, tmp_path / "ranx.json"],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout)
    result = evaluate(task, scorer(scores), metrics=ACCURACY, topk=[5, 20])
    assert {pairs[key]: value for key, value in theirs.items()} == approx(
        {key: result.metrics[key] for key in pairs.values()}, abs=1e-9
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_cannot_be_ranked(bad):
    task = task_of([[1], [2], [3]], n_items=5, masked=[[2], [], []])
    scores = np.zeros((3, 5))
    scores[:, 0] = bad  # [PAD] is ignored
    scores[:, 1:] = np.arange(4)
    assert evaluate(task, scorer(scores), metrics=["hit"], topk=4).metrics == {"hit@4": 1}
    scores[1:, 4] = bad
    with pytest.raises(DataError, match=r"scores of 2 of 3 rows hold NaN or \+inf \(first at user id 1\)"):
        evaluate(task, scorer(scores), metrics=["hit"], topk=4)


def test_wrong_shape_of_scores():
    task = task_of([[1], [2]], n_items=5)
    with pytest.raises(DataError, match=r"scores of shape \[2, 4\] for 2 rows of 5 items"):
        evaluate(task, scorer(np.zeros((2, 4))), metrics=["hit"], topk=1)


def test_all_scores_minus_infinity():
    with pytest.raises(DataError, match="every item of every row -inf"):
        evaluate(task_of([[1]], 4), scorer(np.full((1, 4), -np.inf)), metrics=["hit"], topk=1)


def test_a_constant_scorer_is_at_chance():
    n_rows, n_items = 2000, 300
    rng = np.random.default_rng(0)
    positives = rng.integers(1, 11, n_rows)  # popular items have low ids, as first seen in a file
    negatives = {row: rng.choice(np.arange(11, n_items), 99, replace=False) for row in range(n_rows)}
    constant = scorer(np.zeros((n_rows, n_items)))
    cand100 = task_of([[p] for p in positives], n_items, candidates=negatives)
    metrics = evaluate(cand100, constant, metrics=["hit", "auc"], topk=10).metrics
    assert metrics["hit@10"] == approx(0.1, abs=4 * np.sqrt(0.09 / n_rows))
    assert metrics["auc"] == 0.5
    full = evaluate(task_of([[p] for p in positives], n_items), constant, metrics=["hit"], topk=10)
    assert full.metrics["hit@10"] < 0.2
    # no run of neighbouring ids, which would be all popular or all rare
    assert np.diff(np.sort(full.top_items[0])).max() > n_items / 20


def test_nothing_masked_or_padded_is_recommended():
    task = task_of([[1], [2]], n_items=6, masked=[[3, 4, 5], [1]], candidates={0: [3, 4], 1: [4]})
    scores = np.tile(np.arange(6.0)[::-1], (2, 1))
    result = evaluate(task, scorer(scores), metrics=["hit"], topk=5)
    assert result.top_items.tolist() == [[1, 0, 0, 0, 0], [2, 4, 0, 0, 0]]


def test_batches_do_not_matter_even_with_ties():
    rng = np.random.default_rng(1)
    task = random_task(rng, 50, 200)
    scores = rng.integers(0, 4, (50, 200))
    whole = evaluate(task, scorer(scores), metrics=[*ACCURACY, "auc"], topk=[5, 20])
    for batch_size in (1, 7):
        again = evaluate(task, scorer(scores), metrics=[*ACCURACY, "auc"], topk=[5, 20], batch_size=batch_size)
        assert again.metrics == whole.metrics
        assert (again.top_items == whole.top_items).all()


def test_a_shorter_list_begins_a_longer_one_even_with_ties():
    """Some rows have equal scores on both sides of the cutoff, some below it, some none at all."""
    rng = np.random.default_rng(2)
    task = random_task(rng, 60, 40)
    scores = rng.permuted(np.tile(np.arange(40), (60, 1)), axis=1) // rng.integers(1, 5, (60, 1))
    longest = evaluate(task, scorer(scores), metrics=["hit"], topk=40).top_items
    for k in (1, 2, 3, 7, 20):
        assert (evaluate(task, scorer(scores), metrics=["hit"], topk=k).top_items == longest[:, :k]).all()
    # all lists follow one order of the items where scores are equal
    places = np.argsort(evaluate(task_of([[1]], 40), scorer(np.zeros((1, 40))), metrics=["hit"], topk=39).top_items[0])
    for row, items in enumerate(longest):
        items = items[items > 0]
        equal = scores[row, items[1:]] == scores[row, items[:-1]]
        assert (places[items[1:] - 1] > places[items[:-1] - 1])[equal].all()


@pytest.mark.parametrize("candidates", [None, {0: [3, 4], 1: [4]}])
def test_scores_are_left_alone(candidates):
    task = task_of([[1], [2]], n_items=6, masked=[[3], [1]], candidates=candidates)
    scores = torch.rand(2, 6, dtype=torch.float64, requires_grad=True)
    before = scores.detach().clone()
    evaluate(task, lambda rows: scores, metrics=["hit", "auc"], topk=5)
    assert torch.equal(scores, before)
    # one row of memory for all users, as a popularity model returns it
    evaluate(task, lambda rows: torch.arange(6.0).half().expand(len(rows), 6), metrics=["hit"], topk=5)


def test_double_precision_is_not_rounded_away():
    task = task_of([[2]], n_items=3)
    scores = torch.tensor([[0, 1, 1 + 1e-12]], dtype=torch.float64)
    assert evaluate(task, lambda rows: scores, metrics=["hit"], topk=1).metrics == {"hit@1": 1}


def test_one_batch_of_scores_at_a_time():
    task = random_task(np.random.default_rng(0), 12, 30)
    earlier = []

    def score(rows):
        assert all(reference() is None for reference in earlier[:-1])
        scores = torch.rand(len(rows), 30)
        earlier.append(weakref.ref(scores))
        return scores

    done = []
    result = evaluate(task, score, metrics=["hit"], topk=3, batch_size=5, progress=lambda *args: done.append(args))
    assert done == [(5, 12), (10, 12), (12, 12)]
    assert len(earlier) == 3
    assert result.per_user["hit@3"].base is None  # a view would keep more than it shows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["NDGC"]}, "'ndgc' is not a ranking metric; did you mean ndcg"),
        ({"topk": []}, "topk is empty"),
        ({"topk": [0]}, "topk must hold whole numbers"),
        ({"batch_size": 0}, "batch_size of the evaluation must be >= 1"),
        ({"metrics": ["TailPercentage"]}, "tailpercentage needs item_counts"),
        ({"metrics": ["AveragePopularity"], "item_counts": np.ones(4)}, "of each of 5 items"),
    ],
)
def test_settings_errors(arguments, message):
    task = task_of([[1]], n_items=5)
    with pytest.raises(ConfigError, match=message):
        evaluate(task, scorer(np.zeros((1, 5))), **({"metrics": ["hit"], "topk": [1]} | arguments))


def test_significance_needs_no_torch():
    code = (
        "import sys; from recbole_llm.evaluation import paired_tests, EvalTask; "
        "assert paired_tests.__name__ == 'paired_tests'; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    import recbole_llm.evaluation as evaluation

    assert evaluation.evaluate is evaluate
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = evaluation.evalute
