"""EvalTask: rows, positives, masks and candidates from id pairs."""

import numpy as np
import pytest

from recbole_llm.errors import DataError
from recbole_llm.evaluation.task import EvalTask

TARGETS = np.array([7, 3, 7]), np.array([5, 1, 2])  # user 7 has two positives
KNOWN = np.array([3, 3, 7, 9, 3, 7]), np.array([4, 2, 5, 1, 4, 1])  # 3-4 twice; 7-5 is a positive; 9 has no target


def build(**changes):
    arguments = {"name": "full", "part": "test", "n_items": 6, "targets": TARGETS, "known": KNOWN}
    return EvalTask.build(**(arguments | {"split_fingerprint": "s"} | changes))


def rows_of(indptr, items):
    return [items[start:end].tolist() for start, end in zip(indptr[:-1], indptr[1:], strict=True)]


def test_rows_positives_and_mask():
    task = build()
    assert task.user_ids.tolist() == [3, 7]
    assert rows_of(task.pos_indptr, task.pos_items) == [[1], [2, 5]]
    assert rows_of(task.mask_indptr, task.mask_items) == [[2, 4], [1]]
    assert task.candidates is None
    assert len(task) == 2
    assert task.n_pos.tolist() == [1, 2]


def test_no_mask():
    task = build(mask_history=False)
    assert rows_of(task.mask_indptr, task.mask_items) == [[], []]
    assert build(mask_history=False, known=None).fingerprint == task.fingerprint


def test_order_and_repeats_of_the_pairs_do_not_matter():
    twice = [np.concatenate([column[::-1], column]) for column in TARGETS]
    again = build(targets=twice, known=[column[::-1] for column in KNOWN])
    assert again.fingerprint == build().fingerprint
    assert rows_of(again.pos_indptr, again.pos_items) == [[1], [2, 5]]


@pytest.mark.parametrize(
    "candidates",
    [
        {3: [4, 2], 7: [3, 4], 8: [1]},
        {3: np.array([1, 2, 4]), 7: np.array([3, 4, 5])},  # a positive among them is kept once
        np.array([[4, 2, 0], [0, 4, 3]]),
    ],
)
def test_candidates_hold_the_positives_once(candidates):
    task = build(candidates=candidates)
    assert [sorted(row) for row in task.candidates.tolist()] == [[0, 1, 2, 4], [2, 3, 4, 5]]
    assert task.candidates.dtype == np.int64


def test_column_order_is_random_and_fixed_by_the_seed():
    users = np.arange(2000)
    table = np.tile(np.arange(2, 11), (2000, 1))
    tasks = [
        build(targets=(users, np.ones(2000, int)), n_items=11, mask_history=False, candidates=given, seed=seed)
        for given, seed in ((table, 1), (table[:, ::-1], 1), (table, 2))
    ]
    assert (tasks[0].candidates == tasks[1].candidates).all()
    assert (tasks[0].candidates != tasks[2].candidates).any()
    column_of_positive = np.argwhere(tasks[0].candidates == 1)[:, 1]
    # 200 +- 13 a column
    assert (abs(np.bincount(column_of_positive, minlength=10) - 200) < 4 * 13.5).all()


@pytest.mark.parametrize(
    "change",
    [
        {"split_fingerprint": "t"},
        {"part": "valid"},
        {"n_items": 7},
        {"mask_history": False},
        {"known": (KNOWN[0][1:], KNOWN[1][1:] * 0 + 3)},
        {"targets": (TARGETS[0][:2], TARGETS[1][:2])},
        {"candidates": {3: [4], 7: [4]}},
    ],
)
def test_fingerprint_changes_with_every_part(change):
    assert build(**change).fingerprint != build().fingerprint


def test_fingerprint_changes_with_the_candidates_but_not_with_the_name():
    one, other = ({3: [4, 5], 7: [3, 4]}, {3: [4, 5], 7: [3, 1]})
    assert build(candidates=one).fingerprint != build(candidates=other).fingerprint
    assert build(candidates=one).fingerprint == build(candidates=one, name="cand3").fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": "train"}, "part must be valid or test, not 'train'"),
        ({"targets": ([], [])}, "no test target"),
        ({"targets": ([1], [0])}, r"targets: item id 0 is not in 1..5; 0 is \[PAD\]"),
        ({"targets": ([1], [6])}, "targets: item id 6 is not in 1..5"),
        ({"targets": ([-1], [1])}, "user id -1 is negative"),
        ({"targets": ([1, 2], [1])}, "two arrays of one length"),
        ({"targets": ([1.0], [1.0])}, "ids must be whole numbers"),
        ({"known": None}, "mask_history needs the known history"),
        ({"known": ([3], [9])}, "known history: item id 9"),
        ({"candidates": {3: [1]}}, r"1 users have no candidates \(e.g. user id 7\)"),
        ({"candidates": np.array([[1, 2]])}, r"candidates must be ids of shape \[2, C\]"),
        ({"candidates": np.array([[1, 2], [3, 6]])}, "candidates: item id 6"),
        ({"candidates": np.array([[1, 2], [3, 3]])}, r"1 rows name a candidate twice \(e.g. item id 3\)"),
    ],
)
def test_errors(change, message):
    with pytest.raises(DataError, match=message):
        build(**change)
