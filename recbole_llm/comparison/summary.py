"""From records to a table: means, costs, best and second best, tests against a reference. No formatting here."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_llm.comparison.differences import Test, tests_against
from recbole_llm.comparison.plan import SHARED
from recbole_llm.comparison.record import FAILED, OK, Record
from recbole_llm.config.record import NOT_RUN_RELEVANT
from recbole_llm.errors import DataError

# metrics of which less is better; all others: more
LESS_IS_BETTER = ("giniindex", "averagepopularity", "logloss", "log_loss", "base_rate_log_loss", "rmse", "mae")


@dataclass(frozen=True)
class Value:
    """A metric of one row: mean and standard deviation (n - 1) over its seeds, None for a single one.

    ``rank``: 1 best of its column, 2 second best, 0 neither; by the unrounded mean, failed rows left out.
    """

    mean: float
    sd: float | None
    rank: int = 0


@dataclass(frozen=True)
class Cost:
    """Means over a row's seeds. Seconds are wall time; peak_bytes is the greatest of the seeds.

    Attributes:
        train_seconds: without validations, with the building of the model, in which closed-form models are solved; the
            same for a run that was broken off and resumed. epoch_seconds: of one epoch, None where there are none.
        eval_seconds: one evaluation of the test rows. choice_seconds: what choosing from the grid took.
    """

    train_seconds: float
    epoch_seconds: float | None
    eval_seconds: float
    choice_seconds: float
    peak_bytes: int
    n_parameters: int


@dataclass(frozen=True)
class SummaryRow:
    """One row of a table.

    Attributes:
        failures: (seed, reason) of the runs that gave no result; ``values`` is empty if all.
        mixed: what differs between its runs beside the seed: "settings", "code", "data".
        failed_points: grid points that gave no result.
    """

    label: str
    model: str
    seeds: tuple[int, ...]
    values: Mapping[str, Value]
    cost: Cost | None
    tried: int
    tests: Mapping[str, Test] = field(default_factory=dict)
    failures: tuple[tuple[int, str], ...] = ()
    mixed: tuple[str, ...] = ()
    failed_points: int = 0


@dataclass(frozen=True)
class Table:
    """All rows of one dataset under one protocol, in the order of the records.

    ``tested``: metrics that the rows' tests are about. ``splits``: fingerprints: one, or one a seed in their order.
    """

    dataset: str
    protocol: str
    metrics: tuple[str, ...]
    rows: tuple[SummaryRow, ...]
    reference: str | None
    tested: tuple[str, ...]
    splits: tuple[str, ...]


def summarise(
    folder: str | Path,
    records: Sequence[Record],
    *,
    reference: str | None,
    tested: Sequence[str] = ("ndcg@10",),
) -> list[Table]:
    """One table for each dataset and protocol among the records.

    Args:
        folder: where the records' per-user metrics lie.
        reference: label that the other rows are tested against; None, or one that has no result: no tests.
        tested: per-user metrics to test.
    Raises:
        DataError: when the records of a table belong to different splits and not one to a seed, were ranked in
            different ways, or their users differ.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.dataset, record.protocol), []).append(record)
    return [_table(Path(folder), *key, group, reference, tuple(tested)) for key, group in groups.items()]


def _table(folder: Path, dataset: str, protocol: str, records, reference, tested) -> Table:
    splits = _splits(dataset, protocol, records)
    for key in sorted(SHARED - ({"split_seed"} if len(splits) > 1 else set())):
        values = {
            json.dumps(r.result.config[key], sort_keys=True) for r in records if r.result and key in r.result.config
        }
        if len(values) > 1:
            raise DataError(
                f"the records of {dataset}, {protocol} differ in {key} ({', '.join(sorted(values))[:120]}), so their "
                "numbers cannot stand in one table; compare runs under one protocol"
            )
    by_label: dict[str, list[Record]] = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    done = {label: [r for r in rs if r.status == OK] for label, rs in by_label.items()}
    metrics = tuple(dict.fromkeys(m for rs in done.values() for r in rs for m in r.result.test))
    ranks = {
        metric: _ranks({label: _mean(rs, metric) for label, rs in done.items() if rs}, metric) for metric in metrics
    }
    tests = tests_against(reference, folder, done, tested)
    rows = tuple(
        SummaryRow(
            label=label,
            model=rs[0].model,
            seeds=tuple(r.seed for r in done[label]),
            values={m: _value(done[label], m, ranks[m].get(label, 0)) for m in metrics if _has(done[label], m)},
            cost=_cost(done[label]) if done[label] else None,
            tried=max(r.tried for r in rs),
            tests=tests.get(label, {}),
            failures=tuple((r.seed, r.reason) for r in rs if r.status == FAILED),
            mixed=_mixed(done[label]),
            failed_points=max(r.failed_points for r in rs),
        )
        for label, rs in by_label.items()
    )
    return Table(dataset, protocol, metrics, rows, reference, tested, splits)


def _splits(dataset: str, protocol: str, records: Sequence[Record]) -> tuple[str, ...]:
    """The split of all records; or of each seed, where every row has every seed or says why not."""
    by_seed: dict[int, set[str]] = {}
    seeds_of: dict[str, set[int]] = {}
    for record in records:
        seeds_of.setdefault(record.label, set()).add(record.seed)
        if record.status == OK:
            by_seed.setdefault(record.seed, set()).add(record.result.split)
    splits = set().union(*by_seed.values())
    one_each = len(splits) == len(by_seed) and all(len(found) == 1 for found in by_seed.values())
    if len(splits) > 1 and not (one_each and all(seeds >= by_seed.keys() for seeds in seeds_of.values())):
        raise DataError(
            f"the records of {dataset}, {protocol} belong to {len(splits)} different splits, which cannot be compared; "
            "run the comparison again"
        )
    return tuple(splits) if len(splits) < 2 else tuple(next(iter(by_seed[seed])) for seed in sorted(by_seed))


def _mixed(records: list[Record]) -> tuple[str, ...]:
    """What differs between the runs of a row beside the seed."""
    one_a_seed = len({record.result.split for record in records}) > 1
    states: dict[str, set[str]] = {"settings": set(), "code": set(), "data": set()}
    for record in records:
        ignored = NOT_RUN_RELEVANT | {"seed"} | ({"split_seed", *record.grid} if one_a_seed else set())
        settings = {k: v for k, v in record.result.config.items() if k not in ignored}
        states["settings"].add(json.dumps(settings, sort_keys=True))
        states["code"].add(record.result.code_hash)
        states["data"].add(record.data_hash)
    return tuple(name for name, found in states.items() if len(found) > 1)


def _has(records: list[Record], metric: str) -> bool:
    return bool(records) and all(metric in r.result.test for r in records)


def _mean(records: list[Record], metric: str) -> float:
    return float(np.mean([r.result.test.get(metric, math.nan) for r in records]))


def _value(records: list[Record], metric: str, rank: int) -> Value:
    values = [r.result.test[metric] for r in records]
    return Value(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, rank)


def _ranks(means: dict[str, float], metric: str) -> dict[str, int]:
    """1 for the best, 2 for the second best value; equal means share a rank, and where all are equal there is none."""
    finite = {label: value for label, value in means.items() if math.isfinite(value)}
    if len(finite) > 1 and len(set(finite.values())) == 1:
        return {}
    less = metric.rpartition("/")[2].split("@")[0] in LESS_IS_BETTER
    best = sorted(set(finite.values()), reverse=not less)[:2]
    return {label: best.index(value) + 1 for label, value in finite.items() if value in best}


def _cost(records: list[Record]) -> Cost:
    results = [r.result for r in records]
    epochs = [sum(stage["epochs"] for stage in r.stages) for r in results]
    # by stages: the clock of a resumed run began with its last part
    train = [sum(stage["epochs"] * stage["seconds_per_epoch"] for stage in r.stages) for r in results]
    build = [r.seconds.get("build", 0.0) for r in results]
    return Cost(
        train_seconds=float(np.mean(np.add(train, build))),
        epoch_seconds=float(np.mean(np.divide(train, epochs))) if all(epochs) else None,
        eval_seconds=float(np.mean([r.seconds["test"] for r in results])),
        choice_seconds=max(r.grid_seconds for r in records),
        peak_bytes=max(r.peak_bytes for r in results),
        n_parameters=results[0].n_parameters,
    )
