"""A report before it is rendered: one section a table, with its grids, facts, records and per-user metrics."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recbole_llm.comparison.differences import per_user
from recbole_llm.comparison.record import OK, About, Record
from recbole_llm.comparison.summary import Table, summarise
from recbole_llm.errors import ConfigError
from recbole_llm.report import tables
from recbole_llm.report.cells import Grid
from recbole_llm.report.facts import facts, observed
from recbole_llm.report.load import Loaded

ACCURACY = ("hit@10", "ndcg@10", "mrr@10", "recall@10")
SECONDARY = ("hit@10", "ndcg@10")  # of every further task of a protocol, such as full/ndcg@10
BEYOND_ACCURACY = tuple(
    f"{name}@10"
    for name in ("itemcoverage", "giniindex", "shannonentropy", "averagepopularity", "novelty", "tailpercentage")
)


@dataclass(frozen=True)
class Section:
    """One table of a report.

    Attributes:
        slug: unique among the sections, of letters, digits and "-".
        grids: results first, then choices and tests.
        metrics: shown ones; main_metric: the one that figures are about, None without any.
        sensitivity: setting -> labels of the rows that have another value of it than the reference.
        users: row -> main metric of each user, averaged over seeds, users in the same order. [users] float64.
    """

    slug: str
    heading: str
    table: Table
    records: tuple[Record, ...]
    metrics: tuple[str, ...]
    main_metric: str | None
    grids: tuple[Grid, ...]
    facts: tuple[tuple[str, str], ...]
    users: Mapping[str, np.ndarray]
    sensitivity: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """``note``: paragraphs above the tables; ``remarks``: what was left out of the report."""

    title: str
    note: tuple[str, ...]
    remarks: tuple[str, ...]
    sections: tuple[Section, ...]


def build(
    loaded: Loaded,
    *,
    reference: str | None,
    metrics: Sequence[str] | None,
    tested: Sequence[str] | None,
    test: str,
    title: str | None,
    note: str,
) -> Report:
    """Summarise the runs and lay out their tables.

    What is None, or empty, is as the comparisons have it that the runs come from, else as said here.

    Args:
        reference: row that the others are tested against; the last row of each table.
        metrics: to show; None takes accuracy and beyond-accuracy metrics at 10, without duplicates.
        tested: metrics to test, of those that runs have by user; the accuracy metrics that are shown.
        test: "t", "wilcoxon" or "permutation", for the marks.
        title: names the datasets. note: plain text, paragraphs parted by empty lines; none.
    Raises:
        ConfigError: for a reference or metric that no table has.
        DataError: see ``summarise``.
    """
    _check(reference, [record.label for record in loaded.records], "reference", "row")
    known = [m for record in loaded.records if record.result for m in record.result.test]
    for option, names in (("metrics", metrics), ("tested", tested)):
        for metric in names or ():
            _check(metric, known, option, "metric")
    sections = tuple(
        _section(loaded, k, key, reference, metrics, tested, test) for k, key in enumerate(loaded.tables, start=1)
    )
    datasets = ", ".join(dict.fromkeys(dataset for _, dataset, _ in loaded.tables))
    abouts = [loaded.abouts.get(key, About()) for key in loaded.tables]
    titles = {about.title for about in abouts}
    title = title or (titles.pop() if len(titles) == 1 else "") or f"Results on {datasets}"
    notes = [note] if note.strip() else list(dict.fromkeys(about.note for about in abouts))
    paragraphs = [" ".join(p.split()) for text in notes for p in text.replace("\r\n", "\n").split("\n\n")]
    return Report(title, tuple(p for p in paragraphs if p), loaded.notes, sections)


def shown_metrics(table: Table, wanted: Sequence[str] | None, tested: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns of a table: those wanted that it has; by default what is tested and the accuracy metrics at 10, of those
    that say different things, and the beyond-accuracy ones. A table with none of them, as of click models or phases,
    shows all it has."""
    if wanted:
        return tuple(dict.fromkeys(m for m in wanted if m in table.metrics))
    present = [m for m in ACCURACY if m in table.metrics] or [
        m for m in table.metrics if m not in BEYOND_ACCURACY and "/" not in m
    ]
    shown: list[str] = []
    others = (m for m in tested if m in table.metrics and m not in present and "/" not in m)
    for metric in (*others, *present):
        if not any(_same(table, metric, other) for other in shown):
            shown.append(metric)
    further = [m for m in table.metrics if "/" in m and m.rpartition("/")[2] in SECONDARY]
    return (*shown, *further, *(m for m in BEYOND_ACCURACY if m in table.metrics)) or table.metrics


def _same(table: Table, a: str, b: str) -> bool:
    """Whether two metrics agree in all rows, as hit and recall do with one positive a user."""
    pairs = [(row.values.get(a), row.values.get(b)) for row in table.rows if row.values]
    return all(x is not None and y is not None and np.isclose(x.mean, y.mean, rtol=1e-12, atol=0) for x, y in pairs)


def _section(loaded: Loaded, k: int, key: tuple[str, str, str], reference, wanted, tested, test: str) -> Section:
    records, about = loaded.tables[key], loaded.abouts.get(key, About())
    labels = list(dict.fromkeys(record.label for record in records))
    alike = sum(other[1:] == key[1:] for other in loaded.tables)
    if reference is None:
        reference = about.reference or labels[-1]
    # a reference that has no run here stays named, and nothing is tested; one that another table has does not
    chosen = reference if reference in labels or reference == about.reference else None
    with_users = key[1:] not in loaded.without_users
    plain = summarise(loaded.folder, records, reference=None)[0]
    metrics = shown_metrics(plain, wanted, tested or about.tested)
    about_lists = {tables.base(b) for b in BEYOND_ACCURACY}
    testable = tuple(m for m in metrics if tables.base(m) not in about_lists and "/" not in m)
    tested = tuple(m for m in tested or about.tested or testable if m in plain.metrics)
    table = summarise(loaded.folder, records, reference=chosen if with_users else None, tested=tested)[0]
    if not with_users:
        table = replace(table, reference=chosen)
    main = next((m for m in (*tested, *testable) if tables.base(m) == "ndcg"), next(iter(testable or metrics), None))
    runs = {label: [r for r in records if r.label == label and r.status == OK] for label in labels}
    runs = {label: own for label, own in runs.items() if own}
    users = per_user(loaded.folder, runs, main) if with_users and main else {}
    n_users = len(next(iter(users.values()))) if users else None
    grids = (
        tables.results(table, metrics, test, observed(records)),
        *tables.slices(table, records, main),
        *tables.choices(table, records),
        *tables.validation(table, records),
        *tables.tests(table, test),
    )
    return Section(
        slug=f"table-{k}",
        heading=f"{table.dataset}, {table.protocol}" + (f": {about.title}" if alike > 1 and about.title else ""),
        table=table,
        records=records,
        metrics=metrics,
        main_metric=main,
        grids=grids,
        facts=facts(table, records, test, n_users),
        users=users,
        sensitivity=about.sensitivity,
    )


def _check(name: str | None, known: Sequence[str], option: str, what: str) -> None:
    if name is None or name in known:
        return
    known = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known) or 'none'}"
    raise ConfigError(f"--{option}: no table has a {what} '{name}'; {hint}")
