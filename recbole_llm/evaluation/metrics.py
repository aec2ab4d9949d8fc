"""Ranking metrics from top-K lists, per user where they are per user. RecBole's names and definitions, numpy float64.

K is the largest cutoff. ``hits[u, j]`` says whether the (j+1)-th recommendation of row u is a positive; every accuracy
metric is a function of ``hits`` and ``n_pos`` that returns its value at each cutoff 1..K, [n, K] float64.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.errors import ConfigError, DataError


def hit(hits: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    """1 where at least one positive is in the list."""
    return (np.cumsum(hits, axis=1) > 0).astype(np.float64)


def recall(hits: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    """Positives in the list over all positives of the row."""
    return np.cumsum(hits, axis=1) / n_pos[:, None]


def precision(hits: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    """Positives in the list over k."""
    return np.cumsum(hits, axis=1) / _ranks(hits)


def mrr(hits: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    """One over the rank of the first positive, 0 when it lies beyond k."""
    first = hits & (np.cumsum(hits, axis=1) == 1)
    return np.cumsum(first / _ranks(hits), axis=1)


def ndcg(hits: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    """DCG with binary gain and log2(rank + 1), over the DCG of min(n_pos, k) positives in front."""
    discount = 1 / np.log2(_ranks(hits) + 1)  # [K]
    ideal = np.cumsum(discount)
    return np.cumsum(hits * discount, axis=1) / ideal[_capped(hits, n_pos) - 1]


def average_precision(hits: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    """Sum of the precision at each hit, over min(n_pos, k): RecBole's MAP before the mean."""
    at_hits = np.cumsum(hits, axis=1) / _ranks(hits) * hits
    return np.cumsum(at_hits, axis=1) / _capped(hits, n_pos)


def _ranks(hits: np.ndarray) -> np.ndarray:
    return np.arange(1, hits.shape[1] + 1)


def _capped(hits: np.ndarray, n_pos: np.ndarray) -> np.ndarray:
    """min(n_pos, k) for every cutoff. [n, K] int64."""
    return np.minimum(n_pos[:, None], _ranks(hits))


ACCURACY = {
    "recall": recall,
    "mrr": mrr,
    "ndcg": ndcg,
    "hit": hit,
    "precision": precision,
    "map": average_precision,
}


def average_popularity(items: np.ndarray, item_counts: np.ndarray) -> np.ndarray:
    """Mean number of training interactions of the recommended items. [n, k] -> [n] float64."""
    return item_counts[items].sum(axis=1) / np.maximum((items > 0).sum(axis=1), 1)


def novelty(items: np.ndarray, item_counts: np.ndarray) -> np.ndarray:
    """Mean self-information of the recommended items in bits, -log2 of an item's share of the training interactions.

    Vargas & Castells 2011, https://doi.org/10.1145/2043932.2043955, free discovery; an item without an interaction
    counts as if it had one. [n, k] -> [n] float64.
    """
    bits = -np.log2(np.maximum(item_counts, 1) / item_counts.sum())
    return np.where(items > 0, bits[items], 0.0).sum(axis=1) / np.maximum((items > 0).sum(axis=1), 1)


def tail_percentage(items: np.ndarray, item_counts: np.ndarray, tail_ratio: float = 0.1) -> np.ndarray:
    """Share of recommended items that are long tail. [n, k] -> [n] float64.

    As in RecBole, only items with a training interaction can be tail: the rarest ``tail_ratio`` of them (at least
    one; equal counts by id), or, with ``tail_ratio`` > 1, those with at most that many interactions.
    """
    seen = np.flatnonzero(item_counts)
    if tail_ratio > 1:
        tail = seen[item_counts[seen] <= tail_ratio]
    else:
        rarest_first = seen[np.argsort(item_counts[seen], kind="stable")]
        tail = rarest_first[: max(int(len(seen) * tail_ratio), 1)]
    is_tail = np.zeros(len(item_counts), dtype=bool)
    is_tail[tail] = True
    return is_tail[items].sum(axis=1) / np.maximum((items > 0).sum(axis=1), 1)


def item_coverage(items: np.ndarray, n_items: int) -> float:
    """Distinct recommended items over ``n_items``; RecBole counts [PAD] in, so the most is (n_items - 1) / n_items."""
    return len(_recommended_counts(items)) / n_items


def gini_index(items: np.ndarray, n_items: int) -> float:
    """Gini coefficient of how often each of ``n_items`` is recommended; 0 is even, near 1 is one item for all."""
    counts = np.sort(_recommended_counts(items))
    ranks = np.arange(n_items - len(counts) + 1, n_items + 1)  # items never recommended come first and add 0
    return float(((2 * ranks - n_items - 1) * counts).sum() / counts.sum() / n_items)


def shannon_entropy(items: np.ndarray) -> float:
    """Entropy (nats) of the recommended items' distribution, divided, as RecBole does, by the number of such items."""
    counts = _recommended_counts(items)
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum() / len(counts))


def _recommended_counts(items: np.ndarray) -> np.ndarray:
    """How often each recommended item occurs; 0 stands for an empty place in a list and is no item. [m] int64."""
    return np.unique(items[items > 0], return_counts=True)[1]


BEYOND_ACCURACY = ("itemcoverage", "averagepopularity", "giniindex", "shannonentropy", "tailpercentage")
NEED_ITEM_COUNTS = ("averagepopularity", "tailpercentage")
METRICS = (*ACCURACY, "auc", *BEYOND_ACCURACY)


def parse_metrics(metrics: Sequence[str] | str) -> list[str]:
    """Lower-case metric names in the order given.

    Raises:
        ConfigError: naming the nearest metric when one is unknown.
    """
    names = [str(name).lower() for name in ([metrics] if isinstance(metrics, str) else metrics)]
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(METRICS)}"
            raise ConfigError(f"metrics: {name!r} is not a ranking metric; {hint}")
    return names


def parse_topk(topk: Sequence[int] | int) -> list[int]:
    """Cutoffs as a list.

    Raises:
        ConfigError: when one is not a whole number >= 1.
    """
    cutoffs = [topk] if isinstance(topk, int) else list(topk)
    for k in cutoffs:
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ConfigError(f"topk must hold whole numbers >= 1, not {k!r}")
    return cutoffs


@dataclass(frozen=True)
class Rankings:
    """What the kernel found: all that any metric needs.

    Attributes:
        top_items: recommended ids, best first, 0 where fewer than K could be recommended. [n, K] int64.
        hits: whether each is a positive. [n, K] bool.
        n_pos: positives per row, >= 1. [n] int64.
        auc: per-row AUC, NaN where nothing but positives could be ranked. [n] float64, or None when not asked for.
        n_items: columns of a score row, [PAD] included.
    """

    top_items: np.ndarray
    hits: np.ndarray
    n_pos: np.ndarray
    auc: np.ndarray | None
    n_items: int


def summarise(
    rankings: Rankings, names: list[str], cutoffs: list[int], item_counts: np.ndarray | None, tail_ratio: float
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """All metrics, averaged and per row, keyed "ndcg@10" (AUC: "auc"). "averagepopularity" brings "novelty" with it.

    Returns:
        (mean over rows, full precision), (per row, [n] float64; without the metrics of the whole table of lists).
    Raises:
        DataError: when no row has an AUC.
    """
    per_row: dict[str, np.ndarray] = {}
    means: dict[str, float] = {}
    for name in names:
        if name == "auc":
            if np.isnan(rankings.auc).all():
                raise DataError("auc is undefined: no row has an item to rank beside its positives")
            per_row["auc"] = rankings.auc
            means["auc"] = float(np.nanmean(rankings.auc))
            continue
        at_all = ACCURACY[name](rankings.hits, rankings.n_pos) if name in ACCURACY else None
        for k in cutoffs:
            key, items = f"{name}@{k}", rankings.top_items[:, :k]
            if at_all is not None:
                per_row[key] = at_all[:, k - 1].copy()  # a view would keep the whole [n, K] table alive
            elif name == "averagepopularity":
                per_row[key] = average_popularity(items, item_counts)
                per_row[f"novelty@{k}"] = novelty(items, item_counts)
            elif name == "tailpercentage":
                per_row[key] = tail_percentage(items, item_counts, tail_ratio)
            elif name == "itemcoverage":
                means[key] = item_coverage(items, rankings.n_items)
            elif name == "giniindex":
                means[key] = gini_index(items, rankings.n_items)
            else:
                means[key] = shannon_entropy(items)
            for added in (key, f"novelty@{k}"):
                if added in per_row:
                    means[added] = float(per_row[added].mean())
    return means, per_row
