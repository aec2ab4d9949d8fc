"""Metrics of impressions, by a loop and by scikit-learn, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from recbole_llm.evaluation.impressions import accuracy_and_log_loss, bootstrapped_auc, impression_metrics
from recbole_llm.evaluation.pooled import auc


@pytest.mark.parametrize("tied", [False, True])
def test_against_scikit_learn(tied):
    rng = np.random.default_rng(1)
    groups = rng.integers(-1, 12, 200)
    labels = rng.random(200) < 0.3
    scores = rng.integers(0, 5, 200).astype(float) if tied else rng.normal(size=200)
    labels[groups == 3], labels[groups == 4] = True, False  # without the other label: left out
    found, each = impression_metrics(groups, labels, scores)
    used = [g for g in range(12) if g not in (3, 4)]
    assert each["impression"].tolist() == used
    for k, g in enumerate(used):
        y, s = labels[groups == g], scores[groups == g]
        assert each["auc"][k] == pytest.approx(roc_auc_score(y, s))
        order = sorted(range(len(y)), key=lambda i: (-s[i], y[i]))  # clicked ones last among equals
        assert each["mrr"][k] == pytest.approx(np.mean([1 / (p + 1) for p, i in enumerate(order) if y[i]]))
        if not tied:
            assert each["ndcg@5"][k] == pytest.approx(ndcg_score([y], [s], k=5))
            assert each["ndcg@10"][k] == pytest.approx(ndcg_score([y], [s], k=10))
    assert found == {name: pytest.approx(each[name].mean()) for name in ("auc", "mrr", "ndcg@5", "ndcg@10")}


def test_by_hand():
    # places 1: not clicked, 2: clicked, 3: not, 4: clicked
    found, _ = impression_metrics(np.zeros(4, int), np.array([1, 0, 1, 0], bool), np.array([0.6, 0.9, 0.1, 0.5]))
    assert found["mrr"] == pytest.approx((1 / 2 + 1 / 4) / 2) and found["auc"] == pytest.approx(1 / 4)
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@5"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)


def test_no_opinion_earns_nothing():
    labels = np.array([1, 0, 0, 0], bool)
    found, _ = impression_metrics(np.zeros(4, int), labels, np.ones(4))
    assert found["auc"] == 0.5 and found["mrr"] == 0.25


def test_without_an_impression_of_both_labels_there_is_nothing():
    assert impression_metrics(np.array([0, 0, 1, -1]), np.array([1, 1, 0, 1], bool), np.ones(4)) == ({}, {})
    assert impression_metrics(np.full(2, -1), np.array([1, 0], bool), np.ones(2)) == ({}, {})


def test_accuracy_stands_beside_the_majoritys():
    labels = np.arange(100) < 4
    found = accuracy_and_log_loss(labels, np.full(100, 0.2), base_rate=0.04)
    assert found["accuracy"] == found["majority_accuracy"] == 0.96  # "96 %", of a model that knows nothing
    assert found["log_loss"] == pytest.approx(log_loss(labels, np.full(100, 0.2)))
    assert found["base_rate_log_loss"] == pytest.approx(log_loss(labels, np.full(100, 0.04)))
    assert found["base_rate_log_loss"] < found["log_loss"]
    assert np.isfinite(accuracy_and_log_loss(labels, np.zeros(100), 0.0)["log_loss"])


def test_the_interval_is_over_users():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40), 10)
    labels = rng.random(400) < 0.5
    scores = labels + rng.normal(size=400)
    low, high = bootstrapped_auc(users, labels, scores)
    assert low < auc(labels, scores) < high and high - low < 0.15
    assert (low, high) == bootstrapped_auc(users, labels, scores)
    # ten copies of each row tell nothing new: resampling rows would narrow the interval by a third of its width
    copies = [np.repeat(x, 10) for x in (users, labels, scores)]
    wide = bootstrapped_auc(*copies)
    assert wide[1] - wide[0] == pytest.approx(high - low, rel=0.05)
    assert bootstrapped_auc(users, labels, scores, n_resamples=10**6) is None
