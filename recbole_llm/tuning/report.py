"""The report of a search: leaderboard, what settings matter, figures, and the tested runs of the best configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_llm.comparison.record import OK, Record
from recbole_llm.data.files import atomic_writer
from recbole_llm.report import cells, markdown
from recbole_llm.report.cells import Cell, Column, Grid
from recbole_llm.report.html import TEMPLATE, environment
from recbole_llm.report.sections import Report
from recbole_llm.report.write import available_formats, make_report
from recbole_llm.tuning.before_after import DEFAULT, TUNED, BeforeAfter, before_after
from recbole_llm.tuning.final import FINAL_FOLDER, default_trial
from recbole_llm.tuning.importance import importance
from recbole_llm.tuning.ledger import FAILED, FINISHED, STOPPED, Trial, ranked
from recbole_llm.tuning.sweep import Sweep

SLUG = "search"


@dataclass(frozen=True)
class SearchSection:
    """What a page needs of a section; see ``report.sections.Section``."""

    heading: str
    grids: tuple[Grid, ...]
    facts: tuple[tuple[str, str], ...]
    slug: str = SLUG


def write_report(
    sweep: Sweep, trials: Sequence[Trial], records: Sequence[Record], metric: str, out: Path
) -> tuple[str, list[Path]]:
    """Write results.md and, where its packages are installed, index.html, atomically each.

    Returns:
        Leaderboard and tested rows as text for a terminal; the files.
    """
    metric = metric.lower()
    shares = importance(sweep.space, trials)
    section = SearchSection(
        f"Search: {sweep.model} on {sweep.dataset}",
        _grids(sweep, trials, shares, metric, before_after(records)),
        _facts(sweep, trials, metric),
    )
    tested = make_report([out / FINAL_FOLDER]) if any(r.status == OK for r in records) else None
    report = Report(
        title=f"{sweep.model} on {sweep.dataset}, tuned",
        note=(),
        remarks=tested.remarks if tested else (),
        sections=(section, *(tested.sections if tested else ())),
    )
    texts = {out / "results.md": markdown.render(report)}
    if "html" in available_formats():
        from recbole_llm.report.figures import GROUPS
        from recbole_llm.report.figures import draw as draw_tested
        from recbole_llm.tuning import figures

        pictures = {SLUG: figures.draw(sweep.space, trials, shares, metric, SLUG)}
        pictures |= {other.slug: draw_tested(other) for other in report.sections[1:]}
        template = environment().get_template(TEMPLATE)
        texts[out / "index.html"] = template.render(report=report, pictures=pictures, groups=figures.GROUPS | GROUPS)
    for path, text in texts.items():
        with atomic_writer(path) as file:
            file.write(text.encode())
    shown = replace(section, grids=section.grids[:1])
    return markdown.results(replace(report, sections=(shown, *report.sections[1:]))), list(texts)


def _grids(
    sweep: Sweep, trials: Sequence[Trial], shares: Mapping[str, float], metric: str, runs: BeforeAfter | None
) -> tuple[Grid, ...]:
    grids = [_leaderboard(sweep, trials, metric)]
    if default := default_trial(trials):
        grids.append(_before_after(default, ranked(trials)[0], metric, runs))
    if shares:
        rows = tuple((Cell(key), Cell(cells.percent(share))) for key, share in shares.items())
        columns = (Column("setting", text=True), Column("share of the variance"))
        note = "fANOVA over the scores of all trials, those of stopped ones as they stood when they were stopped."
        grids.append(Grid("importance", "Importance of settings", columns, rows, (note,)))
    return tuple(grids)


def _leaderboard(sweep: Sweep, trials: Sequence[Trial], metric: str) -> Grid:
    """Trials by score; those without one at the end, with the reason."""
    keys = list(sweep.space)
    rows, best = [], ranked(trials)
    for k, trial in enumerate(best, start=1):
        head = (Cell(f"trial {trial.number}"), Cell(cells.number(trial.score), k if k < 3 else 0))
        how = (Cell(trial.status), Cell(str(trial.epochs)), Cell(cells.seconds(trial.seconds)))
        rows.append((*head, *how, *(Cell(_text(trial.point[key])) for key in keys)))
    for trial in trials:
        if trial.order is None or trial.status == FAILED:
            reason = f"failed: {trial.error}" if trial.status == FAILED else "ended before its first validation"
            rows.append(
                (Cell(f"trial {trial.number}"), Cell(reason, span=4), *(Cell(_text(trial.point[key])) for key in keys))
            )
    names = (f"valid {metric}", "ended", "epochs", "seconds", *keys)
    columns = (Column("trial", text=True), *(Column(name) for name in names))
    notes = (
        f"By validation {metric}, the only thing that trials can see. Trials are numbered by their start; 'stopped': "
        "by the scheduler, or because the time was over.",
    )
    return Grid("results", "Leaderboard", columns, tuple(rows), notes)


def _before_after(default: Trial, best: Trial, metric: str, runs: BeforeAfter | None) -> Grid:
    """Both configurations as trials and, where they were run with several seeds, over these."""
    rows = tuple(
        (
            Cell(title),
            Cell(f"trial {trial.number}"),
            Cell(cells.number(trial.score)),
            *([Cell(runs.mean_sd(name), 1 if runs.gained == (name == TUNED) else 0)] if runs else []),
            Cell(cells.settings({key: _text(value) for key, value in trial.point.items()})),
        )
        for title, name, trial in (("default", DEFAULT, default), ("best", TUNED, best))
    )
    columns = (Column("configuration", text=True), Column("trial"), Column(f"valid {metric} of the trial"),
               *([Column(f"valid {metric}, {len(runs.tuned)} seeds")] if runs else []),
               Column("settings", text=True))  # fmt: skip
    notes = (runs.verdict(),) if runs else ()
    return Grid("before-after", "Default and best configuration, by validation", columns, rows, notes)


def _facts(sweep: Sweep, trials: Sequence[Trial], metric: str) -> tuple[tuple[str, str], ...]:
    counts = {status: sum(t.status == status for t in trials) for status in (FINISHED, STOPPED, FAILED)}
    ended = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    space = "; ".join(f"{key}: {domain.text()}" for key, domain in sweep.space.items())
    return (
        ("Budget", f"{len(trials)} trials ({ended}), {sum(t.epochs for t in trials)} epochs in all"),
        ("Search", f"{sweep.search}, scheduler {sweep.scheduler}, seed {sweep.first_seed}"),
        ("Space", space),
        (
            "Selection",
            f"Validation {metric} chose; the trials hold no test row. The best configuration was then run again with "
            "each seed, as was the default one where it is another, and each of these runs read the test split once.",
        ),
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
