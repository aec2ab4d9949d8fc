"""Metrics of labelled rows in one pool: AUC, and F1 at the mean score. Arrays in, floats out."""

import numpy as np
from scipy.stats import rankdata

from recbole_llm.errors import DataError


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Share of the pairs of a positive and a negative row that the scores order rightly; a tie counts half.

    Args:
        labels: [n] bool. scores: [n] float.
    Returns:
        0 to 1; NaN where one of the two labels is missing.
    """
    labels = np.asarray(labels, dtype=bool)
    n_pos = int(labels.sum())
    n_neg = len(labels) - n_pos
    if not n_pos or not n_neg:
        return float("nan")
    ranks = rankdata(scores)  # 1-based, equal scores share their mean rank
    return float((ranks[labels].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """F1 of the positive label, where rows above the mean score are called positive: EmerG's threshold.

    A row at the mean exactly is called negative, so that a model without opinion calls nothing positive.

    Args:
        labels: [n] bool. scores: [n] float.
    """
    labels = np.asarray(labels, dtype=bool)
    called = scores > np.mean(scores, dtype=np.float64)
    return float(2 * (labels & called).sum() / max(labels.sum() + called.sum(), 1))


def pooled_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """``auc`` and ``f1``.

    Args:
        labels: [n] bool. scores: [n] float.
    Raises:
        DataError: when a score is not finite.
    """
    n_bad = int((~np.isfinite(scores)).sum())
    if n_bad:
        raise DataError(f"{n_bad} of {len(scores)} scores are not finite; lower the learning rate")
    scores = np.asarray(scores, dtype=np.float64)
    return {"auc": auc(labels, scores), "f1": f1(labels, scores)}


def auc_by_user(users: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUC of each user's own rows; users with one label only have none and are left out.

    Args:
        users: [n] int64. labels: [n] bool. scores: [n] float.
    Returns:
        user ids ascending [m] int64, AUC [m] float64, rows [m] int64.
    """
    order = np.argsort(users, kind="stable")
    ids, starts = np.unique(users[order], return_index=True)
    parts = np.split(order, starts[1:])
    values = np.array([auc(labels[rows], scores[rows]) for rows in parts])
    has = ~np.isnan(values)
    return ids[has], values[has], np.array([len(rows) for rows in parts])[has]
