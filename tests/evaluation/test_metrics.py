"""Metrics on small written-out lists."""

from math import log, log2

import numpy as np
import pytest
from pytest import approx

from recbole_llm.errors import ConfigError
from recbole_llm.evaluation import metrics

# three users, lists of three: hits at ranks 1 and 3, at rank 2, nowhere; two, one and four positives
HITS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=bool)
N_POS = np.array([2, 1, 4])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hit", [[1, 1, 1], [0, 1, 1], [0, 0, 0]]),
        ("recall", [[1 / 2, 1 / 2, 1], [0, 1, 1], [0, 0, 0]]),
        ("precision", [[1, 1 / 2, 2 / 3], [0, 1 / 2, 1 / 3], [0, 0, 0]]),
        ("mrr", [[1, 1, 1], [0, 1 / 2, 1 / 2], [0, 0, 0]]),
        ("map", [[1, 1 / 2, (1 + 2 / 3) / 2], [0, 1 / 2, 1 / 2], [0, 0, 0]]),
        (
            "ndcg",
            [
                [1, 1 / (1 + 1 / log2(3)), (1 + 1 / 2) / (1 + 1 / log2(3))],
                [0, 1 / log2(3), 1 / log2(3)],
                [0, 0, 0],
            ],
        ),
    ],
)
def test_accuracy(name, expected):
    assert metrics.ACCURACY[name](HITS, N_POS) == approx(np.array(expected), abs=1e-15)


# two lists of two over items 1..4 (n_items 5 with [PAD]); the second list has an empty place
ITEMS = np.array([[1, 3], [3, 0]])
COUNTS = np.array([0, 10, 1, 4, 1])


def test_beyond_accuracy():
    assert metrics.item_coverage(ITEMS, 5) == 2 / 5
    assert metrics.average_popularity(ITEMS, COUNTS) == approx([(10 + 4) / 2, 4])
    # item 3 twice, item 1 once: ranks 5 and 4 of 5
    assert metrics.gini_index(ITEMS, 5) == approx(((2 * 4 - 6) * 1 + (2 * 5 - 6) * 2) / (5 * 3))
    assert metrics.shannon_entropy(ITEMS) == approx(-(1 / 3 * log(1 / 3) + 2 / 3 * log(2 / 3)) / 2)


@pytest.mark.parametrize(
    ("tail_ratio", "expected"),
    [
        (0.5, [0, 0]),  # tail is 2 and 4
        (0.75, [1 / 2, 1]),  # and 3
        (4, [1 / 2, 1]),  # at most four interactions: 2, 3, 4
        (0.01, [0, 0]),  # at least one: 2
    ],
)
def test_tail(tail_ratio, expected):
    assert metrics.tail_percentage(ITEMS, COUNTS, tail_ratio) == approx(expected)


def test_an_item_without_training_interactions_is_not_tail():
    assert metrics.tail_percentage(np.array([[2]]), np.array([0, 5, 0, 1]), 0.5) == approx([0])


def test_gini_of_even_lists_is_zero_without_pad():
    assert metrics.gini_index(np.array([[1, 2], [3, 4]]), 4) == approx(0)


@pytest.mark.parametrize(
    ("name", "message"),
    [("NDGC", "did you mean ndcg"), ("gauc", "did you mean auc"), ("xyzzy", "known are recall, mrr")],
)
def test_unknown_metric(name, message):
    with pytest.raises(ConfigError, match=f"{name.lower()}.*{message}"):
        metrics.parse_metrics(["Recall", name])


def test_names_are_read_in_any_case():
    assert metrics.parse_metrics(["NDCG", "hit"]) == ["ndcg", "hit"]
    assert metrics.parse_metrics("MRR") == ["mrr"]


@pytest.mark.parametrize("topk", [0, [10, -1], [2.5], ["10"], [True]])
def test_wrong_cutoffs(topk):
    with pytest.raises(ConfigError, match="topk must hold whole numbers >= 1"):
        metrics.parse_topk(topk)
