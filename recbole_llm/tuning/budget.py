"""Equal budgets: every row of a comparison is searched with the same number of trials before its runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from recbole_llm.comparison.plan import Plan, Row
from recbole_llm.config.merge import merge
from recbole_llm.errors import ConfigError
from recbole_llm.tuning.final import searched
from recbole_llm.tuning.ledger import ranked
from recbole_llm.tuning.search import Resources, search
from recbole_llm.tuning.space import read_space, settings_of
from recbole_llm.tuning.state import SWEEP_FILE, take
from recbole_llm.tuning.sweep import Sweep, find, make_sweep, read_file, spaces

SEARCH_FOLDER = "search"


def tuned(plan: Plan, trials: int, out: Path, resources: Resources, say: Callable[[str], None]) -> Plan:
    """The plan with every row's settings chosen by a search of so many trials, with the first seed, by validation.

    What a row or the plan sets is not searched. A row's space is its model's in properties/tune/, else its own grid; a
    model whose space there is empty, such as Pop, stays as it is. Searches broken off go on; ended ones are kept.

    Args:
        out: folder of the comparison; searches lie below it.
    Raises:
        ConfigError: for more than one protocol, splits drawn by seed, or a row without anything to choose.
    """
    if len(plan.protocols) > 1:
        raise ConfigError("--tuned searches under one protocol; name one with --protocols")
    if plan.split_per_seed:
        raise ConfigError("--tuned searches one split, but under split_per_seed each seed has its own; leave it out")
    sweeps = {row.label: _sweep(plan, row, trials) for row in plan.rows}
    rows = []
    for k, row in enumerate(plan.rows, start=1):
        sweep = sweeps[row.label]
        if sweep is None:
            rows.append(replace(row, grid={}))
            continue
        say(f"search {k} of {len(plan.rows)}: {row.label}, {trials} trials")
        folder = out / SEARCH_FOLDER / f"{k}-{''.join(c if c.isalnum() else '-' for c in row.label)}"
        resume = take(sweep, plan.protocols[0], folder, resume=(folder / SWEEP_FILE).is_file())
        found = search(sweep, folder, resources, resume=resume, say=say)
        chosen = settings_of(sweep.space, ranked(found)[0].point)
        fixed = {key: value for key, value in sweep.settings.items() if key not in {"protocol", *plan.settings}}
        settings, _ = merge([("search", fixed), ("row", row.settings), ("chosen", chosen)])
        rows.append(replace(row, settings=settings, grid={}, search=searched(sweep, found)))
    return replace(plan, rows=tuple(rows))


def _sweep(plan: Plan, row: Row, trials: int) -> Sweep | None:
    """A row's search; None where its model has nothing to choose."""
    settings, _ = merge([("plan", plan.settings), ("row", row.settings), ("over", plan.over)])
    over = {"model": row.model, "dataset": plan.dataset, "trials": trials, "first_seed": plan.first_seed}
    if row.model in spaces():
        if not read_file(find(row.model))["space"]:
            return None
    elif not row.grid:
        raise ConfigError(
            f"row {row.label} has nothing to choose from: give it a grid, or its model a space in properties/tune/"
        )
    else:
        over["space"] = read_space(row.grid, f"row {row.label}")
    return make_sweep(None, None, over, settings | {"protocol": plan.protocols[0]})
