"""How a reference differs from the other rows of a table: paired over users, and over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_llm.comparison.record import Record, read_per_user
from recbole_llm.errors import DataError
from recbole_llm.evaluation.significance import TESTS, benjamini_hochberg, holm, paired_tests, seed_tests


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


def tests_against(
    reference: str | None, folder: Path, done: Mapping[str, Sequence[Record]], tested: Sequence[str]
) -> dict[str, dict[str, Test]]:
    """label -> metric -> test of the reference against it; empty where the reference has no result.

    Args:
        folder: where the per-user metrics lie. done: label -> its records that have a result. tested: metrics.
    """
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


def _over_seeds(ours: Sequence[Record], theirs: Sequence[Record], metric: str) -> dict[str, float]:
    a, b = ({r.seed: r.result.test[metric] for r in rs if metric in r.result.test} for rs in (ours, theirs))
    seeds = sorted(a.keys() & b.keys())[:16]
    return seed_tests(*(np.array([x[s] for s in seeds]) for x in (a, b))) if len(seeds) > 2 else {}
