"""After a search: the best configuration as a file, run with several seeds, the default one beside it.

Each of these runs reads the test split once.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_llm.comparison.execute import Runner, execute
from recbole_llm.comparison.plan import Plan, Row
from recbole_llm.comparison.record import About, Record, write_about
from recbole_llm.config.merge import merge
from recbole_llm.data.files import atomic_writer
from recbole_llm.tuning.before_after import DEFAULT, TUNED, before_after
from recbole_llm.tuning.ledger import FAILED, Trial, ranked
from recbole_llm.tuning.space import settings_of
from recbole_llm.tuning.sweep import Sweep

BEST_FILE, RESULT_FILE, FINAL_FOLDER = "best.yaml", "tuned.json", "final"


def best_settings(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """Settings of the best trial: the sweep's own and the point's over them, without the seed."""
    return merge([("sweep", sweep.settings), ("best", settings_of(sweep.space, ranked(trials)[0].point))])[0]


def write_best(sweep: Sweep, trials: Sequence[Trial], metric: str, out: Path) -> Path:
    """The best configuration as a config file: ``recbole-llm train --config_files best.yaml`` runs it."""
    best = ranked(trials)[0]
    head = (
        f"# The best of {len(trials)} trials ({sweep.search}, {sweep.scheduler}): validation {metric.lower()} "
        f"{best.score:.6f}, trial {best.number}.\n# Chosen by validation alone; 'recbole-llm train --config_files "
        f"{BEST_FILE}' trains it.\n"
    )
    content = {"model": sweep.model, "dataset": sweep.dataset, **best_settings(sweep, trials)}
    path = out / BEST_FILE
    with atomic_writer(path) as file:
        file.write((head + yaml.safe_dump(content, sort_keys=False)).encode())
    return path


def default_trial(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the default configuration: the first, where it has ended with a score and the space has it."""
    first = next((t for t in trials if t.number == 1 and t.order is not None and t.status != FAILED), None)
    return first if first and first.default else None


def tuned_label(sweep: Sweep) -> str:
    """The row of the best configuration."""
    return f"{sweep.model}, {TUNED}"


def searched(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """What the records of a tuned row say of its search; see ``comparison.plan.Row.search``."""
    return {
        "trials": len(trials),
        "failed": sum(trial.status == FAILED for trial in trials),
        "epochs": sum(trial.epochs for trial in trials),
        "seconds": sum(trial.seconds for trial in trials),
        "chosen": settings_of(sweep.space, ranked(trials)[0].point),
        "space": {key: domain.text() for key, domain in sweep.space.items()},
    }


def retrain(
    sweep: Sweep,
    trials: Sequence[Trial],
    protocol: str,
    out: Path,
    *,
    jobs: int,
    runner: Runner | None,
    say: Callable[[str], None],
) -> list[Record]:
    """Run the best configuration with every seed, and the default one where that is another: before and after.

    Returns:
        One record a seed and configuration, the best one's first; the test split is read once in each, after everything
        was chosen. Finished runs are kept.
    """
    best = ranked(trials)[0]
    rows = [Row(tuned_label(sweep), sweep.model, settings_of(sweep.space, best.point), search=searched(sweep, trials))]
    if (default := default_trial(trials)) and default != best:
        rows.append(Row(f"{sweep.model}, {DEFAULT}", sweep.model, settings_of(sweep.space, default.point)))
    plan = Plan(
        dataset=sweep.dataset,
        rows=tuple(rows),
        protocols=(protocol,),
        seeds=sweep.seeds,
        first_seed=sweep.first_seed,
        settings={key: value for key, value in sweep.settings.items() if key != "protocol"},
    )
    final = out / FINAL_FOLDER
    write_about(final, About(f"{sweep.model} on {sweep.dataset}, tuned", reference=rows[0].label, tested=plan.tested))
    return execute(plan, final, jobs=jobs, runner=runner, say=say)


def write_result(sweep: Sweep, trials: Sequence[Trial], records: Sequence[Record], metric: str, out: Path) -> dict:
    """The record of a whole search: what was tried, what was chosen by what, and when the test split was read."""
    best = ranked(trials)[0]
    found = {
        "model": sweep.model,
        "dataset": sweep.dataset,
        "chosen_by": f"validation {metric.lower()}",
        "trials": len(trials),
        "epochs": sum(trial.epochs for trial in trials),
        "best": {"trial": best.number, "score": best.score, "settings": settings_of(sweep.space, best.point)},
        "verdict": _verdict(trials, records),
        "statement": (
            "Trials hold no test row. The best configuration was run again with each seed, the default one too where "
            "it is another; each of these runs read the test split once, after everything was chosen."
        ),
        "runs": [_run(record) for record in records if record.result and record.label == tuned_label(sweep)],
        "default_runs": [_run(record) for record in records if record.result and record.label != tuned_label(sweep)],
        "failed_runs": [{"seed": r.seed, "reason": r.reason} for r in records if not r.result],
    }
    with atomic_writer(out / RESULT_FILE) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
    return found


def _verdict(trials: Sequence[Trial], records: Sequence[Record]) -> str:
    """Whether the search has found something better than the default configuration."""
    if runs := before_after(records):
        return runs.verdict()
    default = default_trial(trials)
    if default is None:
        return "No trial of the default configuration gave a score, so the best one is compared with nothing."
    if default == ranked(trials)[0]:
        return "The best configuration is the default one."
    return "No seed has a result of both the best and the default configuration, so they are not compared."


def _run(record: Record) -> dict[str, Any]:
    result = record.result
    return {"seed": record.seed, "test_reads": result.test_reads, "valid": result.valid, "test": result.test}
