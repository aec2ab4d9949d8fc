"""The health of a model as one page that loads nothing from elsewhere, and as JSON."""

import json
from pathlib import Path

import numpy as np

from recbole_llm.data.files import atomic_writer
from recbole_llm.diagnose.findings import SEVERITIES, Histogram, Lines
from recbole_llm.diagnose.health import Health
from recbole_llm.report import charts, svg
from recbole_llm.report.html import environment

TEMPLATE = "health.html.j2"
PAGE, NUMBERS = "health.html", "health.json"
_HEIGHT = 120.0  # points
_LEGEND = 11.0  # points a line of the legend
_LOG_SPAN = 20.0  # greatest value over smallest, from which the axis is logarithmic


def write(folder: Path, health: Health) -> list[Path]:
    """Page and JSON, each written atomically.

    Args:
        folder: made where it is not there.
    Raises:
        MissingDependencyError: without jinja2 or matplotlib.
    """
    template = environment(Path(__file__).parent).get_template(TEMPLATE)
    pictures: dict[str, list[str]] = {}
    with svg.style():
        for part in health.parts:
            pictures[part.key] = [
                svg.render(draw(chart), f"{part.key}-{k}-", chart.title) for k, chart in enumerate(part.charts)
            ]
    counts = {severity: sum(f.severity == severity for f in health.findings) for severity in SEVERITIES}
    page = template.render(health=health, pictures=pictures, counts=counts, number=number)
    numbers = json.dumps(health.plain(), indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((PAGE, page), (NUMBERS, numbers)):
        with atomic_writer(folder / name) as file:
            file.write(text.encode())
    return [folder / PAGE, folder / NUMBERS]


def number(value: object) -> str:
    """A value of a table: four digits where it is not whole, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return str(value)
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.4g}"


def draw(chart: Histogram | Lines):
    """A matplotlib figure."""
    return _histogram(chart) if isinstance(chart, Histogram) else _lines(chart)


def _histogram(chart: Histogram):
    figure = svg.figure(_HEIGHT)
    ax = svg.axes(figure, left=40, bottom=30, right=8, top=6)
    edges = np.asarray(chart.edges)
    ax.bar(edges[:-1], chart.counts, width=np.diff(edges), align="edge", color=svg.colour(0), edgecolor="none")
    ax.locator_params(axis="both", nbins=4)
    ax.grid(axis="y")
    ax.set_xlabel(chart.x_label)
    return figure


def _lines(chart: Lines):
    legend = _LEGEND * len(chart.series) if len(chart.series) > 1 else 0.0
    figure = svg.figure(_HEIGHT + legend)
    ax = svg.axes(figure, left=40, bottom=30 + legend, right=8, top=6)
    for k, (name, values) in enumerate(chart.series.items()):
        steps = [step for step, value in enumerate(values, start=1) if value is not None]
        ax.plot(steps, [values[s - 1] for s in steps], "o-" if len(steps) == 1 else "-", color=svg.colour(k))
        if legend:
            place = figure.get_figheight() * 72
            y = (legend - _LEGEND * (k + 0.6)) / place
            figure.text(46 / svg.WIDTH, y, name if len(name) < 46 else f"{name[:43]}...", va="center")
            figure.text(40 / svg.WIDTH, y, "■", va="center", ha="right", color=svg.colour(k))
    drawn = [v for values in chart.series.values() for v in values if v is not None]
    if chart.logarithmic and drawn and min(drawn) > 0 and max(drawn) > _LOG_SPAN * min(drawn):
        charts.log_axis(ax, "y")
    else:
        ax.locator_params(axis="y", nbins=4)
    ax.xaxis.get_major_locator().set_params(integer=True, nbins=5, min_n_ticks=1)
    ax.grid(axis="y")
    ax.set_xlabel("step")
    ax.set_ylabel(chart.y_label)
    return figure
