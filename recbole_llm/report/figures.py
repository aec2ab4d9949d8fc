"""The figures of one table, as inline SVG with captions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.comparison.record import OK, Record
from recbole_llm.report import cells, charts, svg, tables
from recbole_llm.report.sections import Section
from recbole_llm.report.sensitivity import sensitivity
from recbole_llm.report.users import win_loss


@dataclass(frozen=True)
class Picture:
    """One figure. ``group``: key of GROUPS; ``caption`` is plain text."""

    group: str
    title: str
    caption: str
    svg: str


GROUPS = {
    "training": "Training",
    "stages": "Stages",
    "sensitivity": "Sensitivity",
    "slices": "Slices",
    "cost": "Accuracy and cost",
    "experts": "Experts",
    "users": "Users won and lost",
}
LOG_SPAN = 20.0  # greatest loss over smallest, from which the axis is logarithmic


def draw(section: Section) -> list[Picture]:
    """All figures that the section's records have something for, in the order of GROUPS."""
    rows = [row.label for row in section.table.rows if row.seeds]
    runs = {label: [r for r in section.records if r.label == label and r.status == OK] for label in rows}
    colours = {label: svg.colour(k) for k, label in enumerate(rows)}
    pictures: list[Picture] = []
    with svg.style():
        for maker in (_training, _stages, sensitivity, _slices, _cost, _experts, win_loss):
            for group, title, caption, alt, figure in maker(section, runs, colours):
                prefix = f"{section.slug}-f{len(pictures)}-"
                pictures.append(Picture(group, title, caption, svg.render(figure, prefix, alt)))
    return pictures


def _training(section: Section, runs: Mapping[str, list[Record]], colours: Mapping[str, str]) -> Iterator[tuple]:
    """One figure a row: the loss of every seed by epoch, a panel a stage, a dot at the epoch that was kept."""
    for label, records in runs.items():
        stages = [[r.result.stages[k] for r in records if k < len(r.result.stages)] for k in range(_most(records))]
        stages = [same for same in stages if any(s["train_loss"] for s in same)]
        if not any(loss for same in stages for s in same for loss in s["train_loss"]):
            continue  # closed-form models, which RecBole lets go through one epoch of loss 0
        figure = svg.figure(130 * -(-len(stages) // 2))
        wide = 1 if len(stages) == 1 else 2
        grid = figure.subplots(-(-len(stages) // wide), wide, squeeze=False).ravel()
        bottom = 34 / (figure.get_figheight() * 72)
        figure.subplots_adjust(0.13, bottom, 0.98, 1 - bottom * 0.55, wspace=0.38, hspace=0.75)
        for ax, same in zip(grid, stages, strict=False):
            losses = [v for s in same for v in s["train_loss"]]
            for s in same:
                epochs = np.arange(1, len(s["train_loss"]) + 1)
                ax.plot(epochs, s["train_loss"], "_" if len(epochs) == 1 else "-", color=colours[label], alpha=0.75)
                if 0 < s["best_epoch"] <= len(epochs):
                    ax.plot(s["best_epoch"], s["train_loss"][s["best_epoch"] - 1], "o", ms=4, color=colours[label])
            if min(losses) > 0 and max(losses) > LOG_SPAN * min(losses):
                charts.log_axis(ax, "y")
            else:
                ax.locator_params(axis="y", nbins=4)
            ax.set_xlim(0.5, max(len(s["train_loss"]) for s in same) + 0.5)
            ax.xaxis.get_major_locator().set_params(integer=True, nbins=4, min_n_ticks=1)
            ax.grid(axis="y")
            ax.set_title(same[0]["name"])
            ax.set_xlabel("epoch")
        for ax in grid[len(stages) :]:
            ax.remove()
        n = [max(s["epochs"] for s in same) for same in stages]
        names = cells.listed(
            f"{same[0]['name']} ({k} epoch{'s' * (k != 1)})" for same, k in zip(stages, n, strict=True)
        )
        caption = (
            "Training loss by epoch, one line a seed; the dot is the epoch that validation kept; a line without one "
            f"kept the checkpoint that its stage started from. {names}."
        )
        yield "training", label, caption, f"{label}: training loss by epoch in {names}", figure


def _most(records: Sequence[Record]) -> int:
    return max(len(r.result.stages) for r in records)


def _stages(section: Section, runs, colours) -> Iterator[tuple]:
    """Validation scores at the start and the best of every stage, seeds averaged."""
    single: list[charts.Bar] = []  # rows of one stage need no heading, and stand first
    groups: dict[str, list[charts.Bar]] = {}
    told = []
    for label, records in runs.items():
        n = _most(records)
        bars = []
        for k in range(n):
            same = [r.result.stages[k] for r in records if k < len(r.result.stages)]
            best = float(np.mean([s["best_valid"] for s in same]))
            starts = [s["start_valid"] for s in same if s["start_valid"] is not None]
            start = float(np.mean(starts)) if starts else None
            name = label if n == 1 else same[0]["name"]
            bars.append(charts.Bar(name, ((best, colours[label], ""),), cells.number(best), start))
            told.append(f"{label}, {same[0]['name']}: {cells.number(best)}")
        if n > 1:
            groups[label] = bars
        elif n == 1:
            single += bars
    groups = ({"": single} if single else {}) | groups
    if not groups:
        return
    config = next(r.result.config for own in runs.values() for r in own if r.result.stages)
    score = str(config["valid_metric"]).lower()
    caption = (
        f"Best validation {score} of every stage, seeds averaged; the tick is the score of the checkpoint that the "
        "stage started from."
    )
    figure = charts.bars(groups, f"validation {score}")
    yield "stages", f"Validation {score} by stage", caption, f"{caption} {'; '.join(told)}", figure


def _slices(section: Section, runs, colours) -> Iterator[tuple]:
    """Test metrics on parts of the test rows, one figure a metric."""
    for metric in section.metrics:
        groups: dict[str, list[charts.Bar]] = {}
        told = []
        for label, records in runs.items():
            slices = [getattr(r.result, "slices", {}) for r in records]
            for name in slices[0]:
                if not all(metric in s.get(name, {}) for s in slices):
                    continue
                mean = float(np.mean([s[name][metric] for s in slices]))
                n = slices[0][name].get("rows")
                head = f"{name} ({n:,.0f} rows)" if n is not None else name
                groups.setdefault(head, []).append(charts.Bar(label, ((mean, colours[label], ""),), cells.number(mean)))
                told.append(f"{name}, {label}: {cells.number(mean)}")
        if groups:
            caption = f"Test {metric} on parts of the test rows, seeds averaged."
            yield "slices", metric, caption, f"{caption} {'; '.join(told)}", charts.bars(groups, metric)


def _experts(section: Section, runs, colours) -> Iterator[tuple]:
    """Mean gate of every expert as stacked bars, one figure a row."""
    for label, records in runs.items():
        bars, told = [], []
        for modality in records[0].result.experts:
            shares = [r.result.experts.get(modality, {}) for r in records]
            means = {name: float(np.mean([s.get(name, 0.0) for s in shares])) for name in shares[0]}
            bars.append(
                charts.Bar(modality, tuple((v, svg.colour(k), name) for k, (name, v) in enumerate(means.items())), "")
            )
            told.append(f"{modality}: {cells.listed(f'{name} {cells.percent(v)}' for name, v in means.items())}")
        if bars:
            caption = f"Mean gate weight, seeds averaged, from left to right. {'; '.join(told)}."
            yield (
                "experts",
                label,
                caption,
                f"{label}, expert usage. {caption}",
                charts.bars({"": bars}, "share of the gate"),
            )


def _cost(section: Section, runs, colours) -> Iterator[tuple]:
    """The main metric against training seconds and against peak memory."""
    metric = section.main_metric
    rows = [row for row in section.table.rows if tables.was_measured(row) and metric in row.values]
    if not rows:
        return
    what = {
        "training seconds": [row.cost.train_seconds for row in rows],
        "peak memory, MiB": [row.cost.peak_bytes / 2**20 for row in rows],
    }
    y = np.array([row.values[metric].mean for row in rows])
    for name, values in what.items():
        x = np.maximum(values, 1e-3)
        figure = svg.figure(max(190.0, 13.0 * len(rows) + 60))
        ax = svg.axes(figure, 44, 32, 100, 4)
        low, high = y.min(), y.max()
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        ax.set_ylim(low - margin, high + margin)
        ax.set_xlim(x.min() / 1.6, x.max() * 1.6)
        charts.log_axis(ax, "x")
        ax.grid()
        places = charts.apart((y - low + margin) / (high - low + 2 * margin), 12 / (figure.get_figheight() * 72 - 36))
        for k, row in enumerate(rows):
            ax.annotate(
                cells.shortened(row.label, 22),
                (x[k], y[k]),
                (1.04, places[k]),
                textcoords="axes fraction",
                va="center",
                size=svg.FONT_SIZE - 0.5,
                arrowprops={"arrowstyle": "-", "color": svg.MUTED, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
                annotation_clip=False,
            )
            ax.plot(x[k], y[k], "osD^vPX"[k % 7], ms=5.5, color=colours[row.label])
        ax.set_xlabel(name)
        ax.set_ylabel(metric)
        told = "; ".join(
            f"{r.label}: {cells.number(v)} at {cells.seconds(float(w))}" for r, v, w in zip(rows, y, x, strict=True)
        )
        caption = f"Test {metric} against {name} (logarithmic), means over seeds."
        yield "cost", f"{metric} against {name}", caption, f"{caption} {told}", figure
