"""Slices by how known the wanted item is, against a naive loop."""

import math

import numpy as np
import pytest

from recbole_llm.evaluation.metrics import novelty
from recbole_llm.evaluation.slices import item_slices, slice_metrics
from recbole_llm.evaluation.task import EvalTask

COUNTS = np.array([99, 5, 0, 9, 1, 5, 0, 2, 1])  # what [PAD] counts does not matter


def test_item_slices_written_out():
    found = {name: np.flatnonzero(members).tolist() for name, members in item_slices(COUNTS, 0.3).items()}
    assert found == {
        "head": [1, 3],
        "tail": [4, 5, 7, 8],
        "warm": [1, 3, 4, 5, 7, 8],
        "cold": [2, 6],
    }  # 30 % of six, rounded up; equal counts by id


def task_of(positives: list[list[int]]) -> EvalTask:
    users = np.repeat(np.arange(len(positives)) + 1, [len(p) for p in positives])
    return EvalTask.build(
        "full",
        "test",
        len(COUNTS),
        targets=(users, np.concatenate(positives)),
        known=(np.array([], dtype=np.int64), np.array([], dtype=np.int64)),
        candidates=None,
        mask_history=False,
        split_fingerprint="",
        seed=1,
    )


def test_equals_a_naive_loop():
    positives = [[1, 4], [3], [2, 7, 8], [5, 6]]
    lists = np.array([[4, 2, 1], [1, 5, 7], [8, 3, 2], [6, 5, 0]])
    task = task_of(positives)
    found = slice_metrics(task, lists, COUNTS, ["NDCG", "Recall", "GiniIndex"], [1, 3])
    for name, members in item_slices(COUNTS).items():
        recall, ndcg = [], []
        for wanted, shown in zip(positives, lists.tolist(), strict=True):
            wanted = [item for item in wanted if members[item]]
            if not wanted:
                continue
            recall.append(sum(item in wanted for item in shown) / len(wanted))
            dcg = sum(1 / math.log2(rank + 2) for rank, item in enumerate(shown) if item in wanted)
            ndcg.append(dcg / sum(1 / math.log2(rank + 2) for rank in range(min(len(wanted), 3))))
        assert found[name]["recall@3"] == pytest.approx(np.mean(recall))
        assert found[name]["ndcg@3"] == pytest.approx(np.mean(ndcg))
        assert found[name]["rows"] == len(recall) and found[name]["items"] == members.sum()
    assert sum(found[name]["positives"] for name in ("head", "tail", "cold")) == 8
    assert sum(found[name]["positives"] for name in ("warm", "cold")) == 8
    assert set(found["head"]) == {"items", "rows", "positives", "ndcg@1", "ndcg@3", "recall@1", "recall@3"}


def test_a_slice_that_nobody_wants_is_left_out():
    assert set(slice_metrics(task_of([[3], [4]]), np.array([[3], [3]]), COUNTS, ["Hit"], [1])) == {"head", "tail"}


def test_novelty_written_out():
    counts = np.array([0, 4, 2, 0, 2])  # shares 1/2, 1/4, none (as 1/8), 1/4
    assert novelty(np.array([[1, 2], [3, 0], [0, 0]]), counts).tolist() == [1.5, 3.0, 0.0]
