"""Metrics of labelled rows in one pool, against scikit-learn, RecBole and a loop over pairs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_llm.errors import DataError
from recbole_llm.evaluation.pooled import auc, auc_by_user, f1, pooled_metrics

ROWS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=40)


def arrays(rows):
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, dtype=np.float64)


@given(ROWS)
def test_auc_is_the_share_of_pairs_in_order(rows):
    labels, scores = arrays(rows)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
    if pairs:
        assert auc(labels, scores) == pytest.approx(np.mean(pairs), abs=1e-12)
    else:
        assert math.isnan(auc(labels, scores))


def test_as_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n in (10, 500):
        labels, scores = rng.random(n) < 0.4, np.round(rng.normal(size=n), 1)  # with ties
        assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
        assert f1(labels, scores) == pytest.approx(metrics.f1_score(labels, scores > scores.mean()), abs=1e-12)


def test_by_hand():
    labels, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.3, 0.1])
    assert pooled_metrics(labels, scores) == {"auc": 3 / 4, "f1": 1 / 2}  # above the mean .525: one of each label


def test_a_model_without_opinion():
    assert pooled_metrics(np.array([True, False, True]), np.full(3, 0.1)) == {"auc": 0.5, "f1": 0.0}


def test_scores_that_are_not_finite():
    with pytest.raises(DataError, match="2 of 3 scores are not finite"):
        pooled_metrics(np.array([True, False, True]), np.array([np.nan, 1.0, np.inf]))


def test_users_with_one_label_have_no_auc():
    users = np.array([7, 2, 7, 2, 5, 7])
    labels = np.array([True, True, False, True, False, False])
    ids, values, n_rows = auc_by_user(users, labels, np.array([0.5, 0.1, 0.2, 0.3, 0.4, 0.6]))
    assert ids.tolist() == [7] and values.tolist() == [0.5] and n_rows.tolist() == [3]


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(-2, 2)), min_size=1, max_size=40))
def test_by_user_is_auc_of_his_rows(rows):
    users, labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    ids, values, n_rows = auc_by_user(users, labels, scores)
    assert (np.diff(ids) > 0).all() and n_rows.tolist() == [(users == u).sum() for u in ids]
    each = {u: auc(labels[users == u], scores[users == u]) for u in np.unique(users).tolist()}
    assert dict(zip(ids.tolist(), values, strict=True)) == {u: v for u, v in each.items() if not math.isnan(v)}
