"""Figures of a sensitivity analysis: a metric against the values of one setting, everything else as in the base."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recbole_llm.comparison.record import Record
from recbole_llm.report import cells, charts, svg
from recbole_llm.report.sections import Section

_LOG_SPAN = 20.0  # greatest value over the least that is not 0, from which the axis is logarithmic


def sensitivity(section: Section, runs: Mapping[str, list[Record]], colours: Mapping[str, str]) -> Iterator[tuple]:
    """One figure a setting: mean and standard deviation over seeds at every value, the base's as a ring."""
    metric, base = section.main_metric, section.table.reference
    if metric is None or base not in runs:
        return
    for key, labels in section.sensitivity.items():
        points = {label: runs[label] for label in (base, *labels) if label in runs}
        values = {label: own[0].result.config.get(key) for label, own in points.items()}
        if len(points) < 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values.values()):
            continue
        order = sorted(points, key=values.get)
        scores = [[r.result.test[metric] for r in points[label]] for label in order]
        x, mean = np.array([values[label] for label in order], dtype=float), np.array([np.mean(s) for s in scores])
        spread = np.array([np.std(s, ddof=1) if len(s) > 1 else 0.0 for s in scores])
        figure = svg.figure(150.0)
        ax = svg.axes(figure, 46, 32, 14, 8)
        _axis(ax, x)
        ax.errorbar(x, mean, yerr=spread, fmt="o-", ms=4, color=svg.colour(0), capsize=2, elinewidth=0.8)
        here = order.index(base)
        ax.plot(x[here], mean[here], "o", ms=9, markerfacecolor="none", markeredgecolor=svg.INK)
        ax.locator_params(axis="y", nbins=4)
        ax.grid()
        ax.set_xlabel(key)
        ax.set_ylabel(metric)
        told = "; ".join(f"{v:g}: {cells.number(m)}" for v, m in zip(x, mean, strict=True))
        caption = f"Test {metric} by {key}, mean and standard deviation over seeds; the ring is {base}. {told}."
        yield "sensitivity", key, caption, caption, figure


def _axis(ax, x: Sequence[float]) -> None:
    """Logarithmic where values span decades; one that is 0 then stands at the left, linearly."""
    positive = [value for value in x if value > 0]
    if min(x) > 0 and max(x) > _LOG_SPAN * min(positive):
        ax.set_xlim(min(x) / 1.5, max(x) * 1.5)
        charts.log_axis(ax, "x")
    elif positive and min(x) == 0 and max(x) > _LOG_SPAN * min(positive):
        ax.set_xscale("symlog", linthresh=min(positive))
        ax.set_xticks(sorted(set(x)), [f"{value:g}" for value in sorted(set(x))])
    else:
        ax.set_xticks(sorted(set(x)), [f"{value:g}" for value in sorted(set(x))])
        ax.margins(x=0.08)
