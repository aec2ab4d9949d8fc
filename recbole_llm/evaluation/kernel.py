"""The one ranking kernel: scores in, per-user metrics out, one batch of rows in memory at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.evaluation.metrics import NEED_ITEM_COUNTS, Rankings, parse_metrics, parse_topk, summarise
from recbole_llm.evaluation.task import EvalTask

_SCORES_PER_BATCH = 4 * 1024 * 1024  # 16 MiB of float32 a copy


@dataclass(frozen=True)
class EvalResult:
    """Metrics of one task.

    Attributes:
        metrics: mean over rows in full precision, keyed as in RecBole: "ndcg@10"; "auc" is the plain mean of the rows'
            AUC (RecBole's GAUC weighs rows by positives), over the rows that have one.
        per_user: value of each row, aligned with ``user_ids``; metrics of all lists together (item coverage, Gini
            index, entropy) are not there. [n] float64 each.
        user_ids: the task's rows. [n] int64.
        top_items: recommended ids, best first, 0 where a row had fewer items to rank. [n, max(topk)] int64.
    """

    metrics: dict[str, float]
    per_user: dict[str, np.ndarray]
    user_ids: np.ndarray
    top_items: np.ndarray


@torch.no_grad()
def evaluate(
    task: EvalTask,
    score_fn: Callable[[np.ndarray], Tensor],
    *,
    metrics: Sequence[str],
    topk: Sequence[int] | int = (),
    batch_size: int | None = None,
    item_counts: np.ndarray | None = None,
    tail_ratio: float = 0.1,
    progress: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Rank every row of a task and measure the lists.

    Masked items and [PAD] are never recommended, nor is an item that the model itself scores -inf. Equal scores are
    ordered by a fixed pseudo-random order of the items (of the candidate columns), not by id: ids follow the file, so
    a scorer without opinion would otherwise profit from popular items coming first.

    Args:
        task: rows, positives, masks and candidates.
        score_fn: row indices [b] int64 -> scores [b, n_items] float, higher is better; -inf means "not recommended",
            column 0 is ignored. The tensor is read, never written to.
        metrics: names, in any case, of Recall, MRR, NDCG, Hit, Precision, MAP, AUC, ItemCoverage, AveragePopularity,
            GiniIndex, ShannonEntropy, TailPercentage.
        topk: cutoffs for all but AUC.
        batch_size: rows a batch; None takes as many as make 4 M scores.
        item_counts: training interactions per item, for AveragePopularity and TailPercentage. [n_items] int.
        tail_ratio: RecBole's key of that name, for TailPercentage.
        progress: called with (rows done, rows) after every batch.
    Raises:
        ConfigError: on an unknown metric, or cutoffs or item counts that are needed but missing.
        DataError: when scores are NaN or +inf, or not of shape [b, n_items].
    """
    names, cutoffs = parse_metrics(metrics), parse_topk(topk)
    if not cutoffs and names != ["auc"] * len(names):
        raise ConfigError("topk is empty, but these metrics need a cutoff: set topk, for example to [10]")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size of the evaluation must be >= 1, not {batch_size}")
    needing = [name for name in names if name in NEED_ITEM_COUNTS]
    if needing and (item_counts is None or np.shape(item_counts) != (task.n_items,)):
        raise ConfigError(f"{needing[0]} needs item_counts: the training interactions of each of {task.n_items} items")

    k_max = max(cutoffs, default=0)
    top_items = np.zeros((len(task), k_max), dtype=np.int64)
    auc = np.empty(len(task)) if "auc" in names else None
    step = batch_size or max(1, _SCORES_PER_BATCH // task.n_items)
    for start in range(0, len(task), step):
        rows = np.arange(start, min(start + step, len(task)))
        scores = _checked_scores(score_fn(rows), rows, task)  # [b, n_items]
        ranked, n_blocked = _rankable(task, rows, scores)  # [b, C], [b]
        if k_max:
            best = _best(task, rows, ranked, k_max)
            top_items[rows, : best.shape[1]] = best.cpu().numpy()
        if auc is not None:
            auc[rows] = _auc(task, rows, scores, ranked, n_blocked)
        if progress is not None:
            progress(int(rows[-1]) + 1, len(task))

    if k_max and not top_items.any():
        raise DataError(f"task {task.name}: the model scored every item of every row -inf; there is nothing to rank")
    # positives lie sorted by (row, item), so membership is a search in one sorted array of keys
    pos_keys = np.repeat(np.arange(len(task)), task.n_pos) * task.n_items + task.pos_items
    keys = np.arange(len(task))[:, None] * task.n_items + top_items
    hits = pos_keys[np.searchsorted(pos_keys[:-1], keys)] == keys
    rankings = Rankings(top_items, hits, task.n_pos, auc, task.n_items)
    item_counts = None if item_counts is None else np.asarray(item_counts)
    means, per_user = summarise(rankings, names, cutoffs, item_counts, tail_ratio)
    return EvalResult(means, per_user, task.user_ids, top_items)


def _checked_scores(scores: Tensor, rows: np.ndarray, task: EvalTask) -> Tensor:
    if scores.shape != (len(rows), task.n_items):
        raise DataError(
            f"task {task.name}: the model returned scores of shape {list(scores.shape)} for {len(rows)} rows of "
            f"{task.n_items} items; full_sort_predict must score every item of every row"
        )
    bad = ~(scores[:, 1:].amax(dim=1) < torch.inf)  # NaN is the maximum wherever it occurs, and compares false
    if bad.any():
        n_bad = int(bad.sum())
        raise DataError(
            f"task {task.name}: scores of {n_bad} of {len(rows)} rows hold NaN or +inf (first at user id "
            f"{task.user_ids[rows[int(bad.nonzero()[0])]]}); they cannot be ranked: look for a diverged training"
        )
    return scores if scores.dtype in (torch.float32, torch.float64) else scores.float()


def _rankable(task: EvalTask, rows: np.ndarray, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the items to rank, blocked ones at -inf.

    Returns:
        ranked: a copy; a column is an item, or with candidates a place in the row's list. [b, C].
        n_blocked: -inf places per row due to the task. [b] int64.
    """
    device = scores.device
    mask_rows, mask_items = (torch.tensor(part, device=device) for part in _csr_slice(task, rows, "mask"))
    if task.candidates is None:
        ranked = scores.clone()
        ranked[:, 0] = -torch.inf
        ranked[mask_rows, mask_items] = -torch.inf
        return ranked, torch.bincount(mask_rows, minlength=len(rows)) + 1
    columns = torch.tensor(task.candidates[rows], device=device)
    masked = torch.zeros(scores.shape, dtype=torch.bool, device=device)
    masked[:, 0] = True  # 0 fills rows with fewer candidates
    masked[mask_rows, mask_items] = True
    blocked = masked.gather(1, columns)
    return scores.gather(1, columns).masked_fill_(blocked, -torch.inf), blocked.sum(dim=1)


def _best(task: EvalTask, rows: np.ndarray, ranked: Tensor, k: int) -> Tensor:
    """Item ids of the k best places, 0 where fewer can be ranked. [b, C] -> [b, min(k, C)] int64."""
    k = min(k, ranked.shape[1])
    # columns in tie order would settle ties, but to bring them there costs as much as to rank: do so for the rows with
    # equal scores among the k + 1 best alone, of which a trained model has few
    values, places = ranked.topk(min(k + 1, ranked.shape[1]), dim=1)
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(dim=1).nonzero()[:, 0]
    values, places = values[:, :k], places[:, :k]
    if len(tied):
        columns = None
        if task.candidates is None:
            columns = torch.tensor(_tie_order(task.n_items), device=ranked.device)
        values[tied], places[tied] = _first_of_equal(ranked[tied], columns, k)
    if task.candidates is not None:
        places = torch.tensor(task.candidates[rows], device=ranked.device).gather(1, places)
    return places.masked_fill(values == -torch.inf, 0)


def _first_of_equal(ranked: Tensor, columns: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns, equal ones in the given order (None: as they stand). [b, C] -> values, columns [b, k].

    ``topk`` promises no order among equal values, nor which of those at the end of the list it takes.
    """
    if columns is not None:
        ranked = ranked.index_select(1, columns)
    last = ranked.topk(k, dim=1).values[:, -1:]
    equal, better = ranked == last, ranked > last
    room = k - better.sum(dim=1, keepdim=True)
    taken = better | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))  # k a row
    places = taken.nonzero()[:, 1].view(len(ranked), k)
    values, order = ranked.gather(1, places).sort(dim=1, descending=True, stable=True)
    places = places.gather(1, order)
    return values, places if columns is None else columns[places]


def _tie_order(n_items: int) -> np.ndarray:
    """Items in a fixed pseudo-random order, [PAD] last. [n_items] int64."""
    return np.append(np.random.PCG64(n_items).random_raw(n_items - 1).argsort() + 1, 0)


def _csr_slice(task: EvalTask, rows: np.ndarray, which: str) -> tuple[np.ndarray, np.ndarray]:
    """(row within the batch, item) of the positives or masked items of consecutive rows. Two [m] int64."""
    indptr, items = getattr(task, f"{which}_indptr"), getattr(task, f"{which}_items")
    bounds = indptr[rows[0] : rows[-1] + 2]
    return np.repeat(np.arange(len(rows)), np.diff(bounds)), items[bounds[0] : bounds[-1]]


def _auc(task: EvalTask, rows: np.ndarray, scores: Tensor, ranked: Tensor, n_blocked: Tensor) -> np.ndarray:
    """Share of (positive, other rankable item) pairs in the right order, ties one half. [b] float64."""
    n_pos = task.n_pos[rows]
    pos_rows, pos_items = _csr_slice(task, rows, "pos")
    place = np.arange(len(pos_rows)) - np.repeat(np.cumsum(n_pos) - n_pos, n_pos)
    pos_rows, pos_items, place = (torch.tensor(part, device=scores.device) for part in (pos_rows, pos_items, place))
    wanted = scores.new_full((len(rows), int(n_pos.max())), -torch.inf)  # [b, P], ragged rows filled up
    wanted[pos_rows, place] = scores[pos_rows, pos_items]
    ascending = ranked.sort(dim=1).values
    # blocked items stand at the very front, so they are counted below every score and taken off again
    below = (torch.searchsorted(ascending, wanted) - n_blocked[:, None]).clamp_(min=0)
    up_to = torch.searchsorted(ascending, wanted, right=True) - n_blocked[:, None]
    is_pos = torch.zeros_like(wanted, dtype=torch.bool)
    is_pos[pos_rows, place] = True
    twice_won = ((below + up_to) * is_pos).sum(dim=1).cpu().numpy()
    # among themselves the P positives have won P * P / 2, whatever their order
    won = (twice_won - n_pos * n_pos) / 2
    n_other = ranked.shape[1] - n_blocked.cpu().numpy() - n_pos
    return np.where(n_other > 0, won / np.maximum(n_pos * n_other, 1), np.nan)
