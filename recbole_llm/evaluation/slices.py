"""Accuracy by how known the wanted item is: head, tail, warm and cold items."""

from collections.abc import Sequence

import numpy as np

from recbole_llm.evaluation.metrics import ACCURACY, Rankings, parse_metrics, parse_topk, summarise
from recbole_llm.evaluation.task import EvalTask

HEAD_SHARE = 0.2


def item_slices(item_counts: np.ndarray, head_share: float = HEAD_SHARE) -> dict[str, np.ndarray]:
    """Items by their training interactions: the most used ``head_share`` of those that have any, the others, the rest.

    Args:
        item_counts: training interactions an item id; 0 is [PAD]. [n_items] int.
    Returns:
        {"head", "tail", "warm", "cold"}: whether an item belongs, equal counts in order of id; head and tail together
            are warm. [n_items] bool each.
    """
    counts = np.asarray(item_counts).copy()
    counts[0] = 0
    used = np.flatnonzero(counts)
    by_use = used[np.argsort(-counts[used], kind="stable")]
    n_head = int(np.ceil(len(used) * head_share))
    found = {name: np.zeros(len(counts), dtype=bool) for name in ("head", "tail", "warm", "cold")}
    found["head"][by_use[:n_head]] = True
    found["tail"][by_use[n_head:]] = True
    found["warm"] = counts > 0
    found["cold"][1:] = counts[1:] == 0
    return found


def slice_metrics(
    task: EvalTask, top_items: np.ndarray, item_counts: np.ndarray, metrics: Sequence[str], topk: Sequence[int] | int
) -> dict[str, dict[str, float]]:
    """Accuracy metrics over the positives of each slice alone, their places in the lists unchanged.

    A row counts where it has a positive in the slice; its recall and ideal DCG are those of these positives.

    Args:
        task: rows and positives. top_items: see EvalResult. item_counts: see :func:`item_slices`.
        metrics, topk: of the protocol; metrics other than accuracy are left out.
    Returns:
        slice -> {"items", "rows", "positives", metrics}; slices without a positive are left out.
    """
    names = [name for name in parse_metrics(metrics) if name in ACCURACY]
    rows = np.repeat(np.arange(len(task)), task.n_pos)
    keys = rows * task.n_items + task.pos_items
    hits = np.isin(np.arange(len(task))[:, None] * task.n_items + top_items, keys)
    found = {}
    slices = item_slices(item_counts)
    if not slices["cold"][task.pos_items].any():
        del slices["warm"]  # all wanted items are
    for name, members in slices.items():
        wanted = members[task.pos_items]
        n_pos = np.bincount(rows[wanted], minlength=len(task))
        counted = n_pos > 0
        if not counted.any() or not names:
            continue
        inside = hits[counted] & members[top_items[counted]]
        rankings = Rankings(top_items[counted], inside, n_pos[counted], None, task.n_items)
        means, _ = summarise(rankings, names, parse_topk(topk), None, 0.1)
        sizes = {"items": int(members.sum()), "rows": int(counted.sum()), "positives": int(wanted.sum())}
        found[name] = sizes | means
    return found
