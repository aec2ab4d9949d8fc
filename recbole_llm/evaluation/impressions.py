"""Metrics of what users were shown: per impression as in MIND, and of all rows in one pool. Arrays in, floats out.

Equal scores share their mean place for AUC. For MRR and NDCG, whose places must differ, an item among equals stands
behind those that were not clicked: a model without opinion earns nothing by the order of a file.
"""

import numpy as np

from recbole_llm.evaluation.pooled import auc

_CUTOFFS = (5, 10)
_MOST_BOOTSTRAPPED = 20_000_000  # rows times resamples of a bootstrap stay below this many


def impression_metrics(
    groups: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Means over the impressions that have clicked rows and others.

    MRR is MIND's: the mean of 1 / place over the clicked rows of an impression. NDCG has gains of 1 for clicked rows.

    Args:
        groups: impression of each row, negative where it is unknown; such rows are left out. [n] int64.
        labels: [n] bool. scores: [n] float.
    Returns:
        ``auc``, ``mrr``, ``ndcg@5``, ``ndcg@10`` in [0, 1], empty without such an impression; the same per impression
        beside ``impression``, the group. [m] each.
    """
    known = groups >= 0
    groups, labels, scores = groups[known], labels[known].astype(bool), scores[known]
    order = np.lexsort((labels, -scores, groups))  # clicked ones behind others of the same score
    groups, labels, scores = groups[order], labels[order], scores[order]
    names, start, size = np.unique(groups, return_index=True, return_counts=True)
    n_clicked = np.add.reduceat(labels.astype(np.int64), start) if len(start) else np.zeros(0, dtype=np.int64)
    both = (n_clicked > 0) & (n_clicked < size)
    if not both.any():
        return {}, {}
    place = np.arange(len(groups)) - np.repeat(start, size) + 1.0
    values = {
        "auc": _auc_by_group(np.repeat(np.arange(len(names)), size), labels, scores, n_clicked, size),
        "mrr": np.add.reduceat(labels / place, start) / np.maximum(n_clicked, 1),
    }
    gain = 1.0 / np.log2(place + 1.0)
    for k in _CUTOFFS:
        ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
        found = np.add.reduceat(labels * gain * (place <= k), start)
        values[f"ndcg@{k}"] = found / np.maximum(ideal[np.minimum(n_clicked, k)], 1e-12)
    values = {name: value[both] for name, value in values.items()}
    return {name: float(value.mean()) for name, value in values.items()}, {"impression": names[both], **values}


def _auc_by_group(group, labels, scores, n_clicked, size) -> np.ndarray:
    """Mann-Whitney statistic of every group; rows ordered by group, then descending score. [m] float64."""
    # place from below, equal scores sharing the mean: runs of equal (group, score)
    new = np.r_[True, (np.diff(group) != 0) | (np.diff(scores) != 0)]
    run = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    length = np.diff(np.r_[first, len(group)])
    start = np.cumsum(size) - size
    below = (start + size)[group] - first[run] - length[run]  # rows of the group with a lower score
    rank = below + (length[run] + 1) / 2.0
    total = np.add.reduceat(np.where(labels, rank, 0.0), start)
    pairs = n_clicked * (size - n_clicked)
    return (total - n_clicked * (n_clicked + 1) / 2.0) / np.maximum(pairs, 1)


def accuracy_and_log_loss(labels: np.ndarray, probabilities: np.ndarray, base_rate: float) -> dict[str, float]:
    """Accuracy at .5 and log loss, beside what no model at all has.

    Args:
        labels: [n] bool. probabilities: of a click [n] float in [0, 1].
        base_rate: share of clicks in training, which a constant would predict.
    Returns:
        ``accuracy``, ``majority_accuracy`` (of always saying what most rows are), ``log_loss`` and
        ``base_rate_log_loss`` in nats.
    """
    labels = np.asarray(labels, dtype=bool)
    return {
        "accuracy": float(((probabilities > 0.5) == labels).mean()),
        "majority_accuracy": float(max(labels.mean(), 1.0 - labels.mean())),
        "log_loss": _log_loss(labels, probabilities),
        "base_rate_log_loss": _log_loss(labels, np.full(len(labels), base_rate)),
    }


def _log_loss(labels: np.ndarray, p: np.ndarray) -> float:
    p = np.clip(np.asarray(p, dtype=np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(labels, np.log(p), np.log1p(-p)).mean())


def bootstrapped_auc(
    users: np.ndarray, labels: np.ndarray, scores: np.ndarray, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the pooled AUC over resampled users: rows of one user do not vary by themselves.

    Args:
        users: [n] int64. labels: [n] bool. scores: [n] float.
    Returns:
        2.5th and 97.5th percentile; None where there are so many rows that it would take long, and matter little.
    """
    if len(users) * n_resamples > _MOST_BOOTSTRAPPED:
        return None
    order = np.argsort(users, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(users[order])) + 1)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_resamples):
        drawn = np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])
        found.append(auc(labels[drawn], scores[drawn]))
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)
