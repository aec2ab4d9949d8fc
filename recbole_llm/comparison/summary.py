"""From records to a table: means, costs, paired tests against a reference, best and second best. No formatting here."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_llm.comparison.plan import SHARED
from recbole_llm.comparison.record import FAILED, OK, Record, read_per_user
from recbole_llm.config.record import NOT_RUN_RELEVANT
from recbole_llm.errors import DataError
from recbole_llm.evaluation.significance import TESTS, benjamini_hochberg, holm, paired_tests, seed_tests

# metrics of which less is better; all others: more
LESS_IS_BETTER = ("giniindex", "averagepopularity", "logloss", "rmse", "mae")


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
class Test:
    """The reference against another row on one metric; differences are reference minus row, over users.

    Attributes:
        difference, low, high: mean and bootstrap interval at ``confidence``. effect_size: Cohen's d_z.
        p, holm, bh: test name -> p-value, and adjusted over all rows and tested metrics of the table.
        seeds_p: test name -> p-value over paired seeds, not adjusted; empty with fewer than three.
        wins, losses: share of users for whom the reference is better, and worse.
    """

    difference: float
    low: float
    high: float
    confidence: float
    effect_size: float
    p: Mapping[str, float]
    holm: Mapping[str, float]
    bh: Mapping[str, float]
    seeds_p: Mapping[str, float]
    wins: float
    losses: float

    def mark(self, test: str = "t", level: float = 0.05) -> str:
        """Of the reference by the Holm-adjusted test: "+" better, "-" worse, "" where neither shows."""
        if self.holm[test] > level:
            return ""
        return "+" if self.difference > 0 else "-"


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
    tests = _tests(folder, done, reference, tested)
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
    """1 for the best, 2 for the second best value; equal means share a rank."""
    finite = {label: value for label, value in means.items() if math.isfinite(value)}
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


def _tests(folder: Path, done: dict[str, list[Record]], reference, tested) -> dict[str, dict[str, Test]]:
    """label -> metric -> test of the reference against it."""
    if not done.get(reference):
        return {}
    raw, users_of = {}, {}
    for metric in tested:
        users = per_user(folder, {label: rs for label, rs in done.items() if rs}, metric)
        if reference not in users:
            continue
        ours = users.pop(reference)
        for label, theirs in users.items():
            raw[label, metric] = paired_tests(ours, theirs)
            users_of[label, metric] = ours - theirs
    by_test = {test: {key: r.p_values[test] for key, r in raw.items()} for test in TESTS}
    by_holm = {test: holm(p) for test, p in by_test.items()}
    by_bh = {test: benjamini_hochberg(p) for test, p in by_test.items()}
    found: dict[str, dict[str, Test]] = {label: {} for label in done}
    for (label, metric), r in raw.items():
        difference = users_of[label, metric]
        found[label][metric] = Test(
            difference=r.mean_difference,
            low=r.ci_low,
            high=r.ci_high,
            confidence=r.confidence,
            effect_size=r.effect_size,
            p=r.p_values,
            holm={test: by_holm[test][label, metric] for test in TESTS},
            bh={test: by_bh[test][label, metric] for test in TESTS},
            seeds_p=_over_seeds(done[reference], done[label], metric),
            wins=float((difference > 1e-12).mean()),
            losses=float((difference < -1e-12).mean()),
        )
    return found


def per_user(folder: str | Path, runs: Mapping[str, Sequence[Record]], metric: str) -> dict[str, np.ndarray]:
    """A metric of every user under some rows, the mean over the seeds that tested him; users in token order.

    Args:
        runs: label -> its records; rows of which a run lacks the metric, or that lack a split, are left out.
    Returns:
        label -> [users] float64.
    Raises:
        DataError: when the runs' users differ, or a file is missing.
    """
    found: dict[str, np.ndarray] = {}
    users_of: dict[str, np.ndarray] = {}  # split -> its users
    splits = {record.result.split for records in runs.values() for record in records}
    for label, records in runs.items():
        users, values = [], []
        for record in records:
            names, metrics = read_per_user(folder, record, [metric])
            if not np.array_equal(users_of.setdefault(record.result.split, names), names):
                raise DataError(
                    f"the runs of {label} were tested on other users than the rest; run the comparison again"
                )
            users.append(names)
            values += metrics.values()
        if len(values) == len(records) and {record.result.split for record in records} == splits:
            _, user = np.unique(np.concatenate(users), return_inverse=True)
            found[label] = np.bincount(user, np.concatenate(values)) / np.bincount(user)
    return found


def _over_seeds(ours: list[Record], theirs: list[Record], metric: str) -> dict[str, float]:
    a, b = ({r.seed: r.result.test[metric] for r in rs if metric in r.result.test} for rs in (ours, theirs))
    seeds = sorted(a.keys() & b.keys())[:16]
    return seed_tests(*(np.array([x[s] for s in seeds]) for x in (a, b))) if len(seeds) > 2 else {}
