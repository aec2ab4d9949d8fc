"""Summaries as grids of cells: results with costs, tests against the reference, what validation chose."""

from collections.abc import Sequence

from recbole_llm.comparison.record import OK, Record
from recbole_llm.comparison.summary import LESS_IS_BETTER, SummaryRow, Table
from recbole_llm.evaluation.slices import HEAD_SHARE
from recbole_llm.report import cells
from recbole_llm.report.cells import Cell, Column, Grid

COSTS = ("train s", "s/epoch", "eval s", "peak MiB", "parameters")


def base(metric: str) -> str:
    """A metric's name without task and cutoff: ``full/ndcg@10`` -> ``ndcg``."""
    return metric.rpartition("/")[2].partition("@")[0]


def results(table: Table, metrics: Sequence[str], test: str, observed: str = "users") -> Grid:
    """Mean and deviation of the metrics, marks, seeds and costs; a row of failures has their reasons instead.

    Args:
        observed: what the tests are over, said in the legend.
    """
    with_grid = any(row.tried for row in table.rows)
    titles = [f"{m} ↓" if base(m) in LESS_IS_BETTER else m for m in metrics]
    names = [*titles, "seeds", *["tried"] * with_grid, *COSTS]
    rows = []
    for row in table.rows:
        label = Cell(row.label, mark=cells.IS_REFERENCE if row.label == table.reference else "")
        if not row.seeds:
            rows.append((label, Cell(f"failed: {cells.failures(row.failures)}", span=len(names))))
            continue
        n = len(row.seeds)
        seeds = Cell(f"{n} of {n + len(row.failures)}" if row.failures else str(n))
        tried = [Cell(str(row.tried) if row.tried else cells.NOTHING)] * with_grid
        rows.append((label, *(_value(row, m, test) for m in metrics), seeds, *tried, *_costs(row)))
    return Grid(
        "results",
        f"{table.dataset}, {table.protocol}",
        (Column("row", text=True), *map(Column, names)),
        tuple(rows),
        tuple(_legend(table, rows, test, observed)),
    )


def _value(row: SummaryRow, metric: str, test: str) -> Cell:
    value = row.values.get(metric)
    if value is None:
        return Cell(cells.NOTHING)
    found = row.tests[metric].mark(test, cells.LEVEL) if metric in row.tests else ""
    mark = {"+": cells.REFERENCE_BETTER, "-": cells.REFERENCE_WORSE, "": ""}[found]
    return Cell(cells.mean_sd(value.mean, value.sd), value.rank, mark)


def was_measured(row: SummaryRow) -> bool:
    """Whether a row's training was watched: not where all runs failed, nor for recommendations made elsewhere."""
    return row.cost is not None and row.cost.peak_bytes > 0


def _costs(row: SummaryRow) -> list[Cell]:
    cost = row.cost
    if not was_measured(row):
        return [Cell(cells.seconds(cost.eval_seconds) if name == "eval s" else cells.NOTHING) for name in COSTS]
    texts = (
        cells.seconds(cost.train_seconds),
        cells.seconds(cost.epoch_seconds),
        cells.seconds(cost.eval_seconds),
        cells.mib(cost.peak_bytes),
        f"{cost.n_parameters:,}",
    )
    return [Cell(text) for text in texts]


def _legend(table: Table, rows, test: str, observed: str):
    yield "Mean ± standard deviation over seeds; best of a column bold, second best underlined; ↓ less is better."
    if any(row.tests for row in table.rows):
        yield (
            f"{cells.IS_REFERENCE} the reference. {cells.REFERENCE_BETTER} the reference is significantly better than "
            f"this row, {cells.REFERENCE_WORSE} significantly worse ({cells.TEST_NAMES[test]} over {observed}, "
            f"Holm-adjusted over the table, level {cells.LEVEL:g}). Tested: {cells.listed(table.tested)}; "
            "no mark there: no difference shown."
        )
    elif table.reference is None:
        yield "No tests: the reference is not in this table."
    elif not any(row.seeds for row in table.rows if row.label == table.reference):
        yield f"No tests: the reference, {table.reference}, has no result."
    elif sum(bool(row.seeds) for row in table.rows) > 1:
        yield f"No tests: the runs have no per-user metrics that {table.reference} could be tested on."
    for row in table.rows:
        if row.mixed:
            yield f"{row.label}: its runs differ in {cells.listed(row.mixed)}; run the comparison again."
        if row.seeds and row.failures:
            yield f"{row.label}: failed with {cells.failures(row.failures)}."


def tests(table: Table, test: str) -> list[Grid]:
    """One grid a tested metric: the reference against every other row."""
    names = cells.TEST_NAMES
    confidence = next((t.confidence for row in table.rows for t in row.tests.values()), 0.95)
    columns = (
        Column("row", text=True),
        *map(Column, ("difference", f"{confidence * 100:g} % interval", "effect size")),
        *(Column(f"p {name}") for name in names),
        *map(Column, (f"Holm ({test})", f"BH ({test})", f"p seeds ({test})", "wins", "losses")),
    )
    grids = []
    for metric in table.tested:
        tested = [(row.label, row.tests[metric]) for row in table.rows if metric in row.tests]
        if not tested:
            continue
        rows = []
        for label, t in tested:
            texts = [cells.signed(t.difference), cells.interval(t.low, t.high), cells.effect(t.effect_size)]
            texts += [cells.p_value(t.p[name]) for name in names]
            texts += [cells.p_value(t.holm[test]), cells.p_value(t.bh[test])]
            texts += [cells.p_value(t.seeds_p[test]) if t.seeds_p else cells.NOTHING]
            texts += [cells.percent(t.wins), cells.percent(t.losses)]
            rows.append((Cell(label), *map(Cell, texts)))
        caption = f"{metric}: {table.reference} minus each row, over users"
        note = (
            "Interval: bootstrap over users. Effect size: Cohen's d_z. Wins and losses: share of users for "
            "whom the reference is better and worse, the rest being ties. Holm and BH: adjusted over all rows and "
            "tested metrics of the table; p over seeds is not adjusted."
        )
        grids.append(Grid(f"tests-{len(grids) + 1}", caption, columns, tuple(rows), (note,)))
    return grids


def slices(table: Table, records: Sequence[Record], metric: str | None) -> list[Grid]:
    """The main metric by how known the wanted item is; empty where runs kept no slices."""
    names: dict[str, float] = {}
    rows = []
    for row in table.rows:
        own = [r.result.slices for r in records if r.label == row.label and r.status == OK]
        if own and own[0] and all(set(s) == set(own[0]) for s in own):
            names |= {name: found["positives"] for name, found in own[0].items()}
            means = {name: [s[name][metric] for s in own if metric in s[name]] for name in own[0]}
            texts = {name: cells.number(sum(v) / len(v)) if v else cells.NOTHING for name, v in means.items()}
            rows.append((row.label, texts))
    if not rows:
        return []
    columns = (Column("row", text=True), *(Column(f"{name} ({n:.0f})") for name, n in names.items()))
    made = tuple((Cell(label), *(Cell(texts.get(name, cells.NOTHING)) for name in names)) for label, texts in rows)
    note = (
        f"Mean over seeds; in brackets the wanted items. head: the most used {HEAD_SHARE:.0%} of the items that have a "
        "training interaction, tail: the others of them, cold: items without one."
    )
    return [Grid("known-items", f"{metric} by how known the wanted item is", columns, made, (note,))]


def choices(table: Table, records: Sequence[Record]) -> list[Grid]:
    """What validation chose from which grid; empty where no row had one."""
    rows = []
    for row in table.rows:
        own = [r for r in records if r.label == row.label]
        if not row.tried:
            continue
        grid = next((r.grid for r in own if r.grid), {})
        chosen = {r.seed: cells.settings(r.chosen) for r in own if r.status == OK}
        text = next(iter(chosen.values()), cells.NOTHING)
        if len(set(chosen.values())) > 1:
            text = "; ".join(f"seed {seed}: {point}" for seed, point in chosen.items())
        cost = cells.seconds(row.cost.choice_seconds if row.cost else None)
        tried = f"{row.tried} ({row.failed_points} without a result)" if row.failed_points else str(row.tried)
        rows.append((Cell(row.label), Cell(tried), Cell(text), Cell(cells.settings(grid)), Cell(cost)))
    if not rows:
        return []
    columns = (
        Column("row", text=True),
        Column("tried"),
        Column("chosen", text=True),
        Column("from", text=True),
        Column("choice s"),
    )
    what = "Settings" if any(r.searched for r in records) else "Grid points"
    caption = f"{what} that validation chose; the test rows played no part"
    return [Grid("choices", caption, columns, tuple(rows))]


def validation(table: Table, records: Sequence[Record]) -> list[Grid]:
    """The metric that chose, on validation and on test; empty where no run was chosen by validation."""
    found = {}
    for row in table.rows:
        own = [r.result for r in records if r.label == row.label and r.status == OK]
        metrics = {str(result.config.get("valid_metric")).lower() for result in own}
        metric = min(metrics, default="")
        if len(metrics) == 1 and all(metric in result.valid and metric in result.test for result in own):
            valid, test = [r.valid[metric] for r in own], [r.test[metric] for r in own]
            found[row.label] = metric, cells.over_runs(valid), cells.over_runs(test)
    if not found:
        return []
    metrics = {metric for metric, *_ in found.values()}
    name = f" {min(metrics)}" if len(metrics) == 1 else ""
    # phased training is watched by a metric of the row's phases
    which = [] if name else [Column("metric", text=True)]
    columns = (Column("row", text=True), *which, Column(f"validation{name}"), Column(f"test{name}"))
    rows = tuple(
        (Cell(label), *([Cell(metric)] if which else []), Cell(valid), Cell(test))
        for label, (metric, valid, test) in found.items()
    )
    note = (
        "Mean ± standard deviation over seeds. Validation chose epochs, stages and grid points, so its numbers are the "
        "best of several. Rows in another order there than on test were chosen for what does not carry over."
    )
    return [Grid("validation", "Validation, which chose, beside test", columns, rows, (note,))]
