"""Shapes that figures are made of, in points: grouped bars, labels that keep apart, logarithmic axes."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.report import svg
from recbole_llm.report.cells import shortened

_LEFT, _RIGHT, _BOTTOM, _TOP = 98.0, 42.0, 30.0, 4.0  # margins around bars
_STEP, _NAMES, _HEAD = 17.0, 10.0, 18.0  # heights of a bar, of the names beneath it, of a heading
_LETTER = 4.6  # width of a letter of the names, generous


@dataclass(frozen=True)
class Bar:
    """A bar of one or more segments.

    Attributes:
        segments: (length, colour, name); a name stands beneath its segment where it fits, "" for none.
        text: behind the bar. tick: where a line crosses it; None for nowhere.
    """

    label: str
    segments: tuple[tuple[float, str, str], ...]
    text: str
    tick: float | None = None


def bars(groups: Mapping[str, Sequence[Bar]], x_label: str):
    """A figure of horizontal bars under the headings of their groups; the heading "" is left out."""
    named = any(name for own in groups.values() for bar in own for *_, name in bar.segments)
    step = _STEP + _NAMES * named
    inner = sum(len(own) * step + _HEAD * bool(head) for head, own in groups.items())
    figure = svg.figure(inner + _BOTTOM + _TOP)
    ax = svg.axes(figure, _LEFT, _BOTTOM, _RIGHT, _TOP)
    width = svg.WIDTH - _LEFT - _RIGHT
    longest = max(sum(length for length, *_ in bar.segments) for own in groups.values() for bar in own)
    place = ax.get_yaxis_transform()
    y = 0.0
    for head, own in groups.items():
        if head:
            ax.text(-_LEFT / width, y + _HEAD * 0.6, shortened(head, 46), transform=place, va="center", weight=700)
            y += _HEAD
        for bar in own:
            label = "\n".join(textwrap.wrap(bar.label, 21, max_lines=2, placeholder="…", break_on_hyphens=False))
            size = svg.FONT_SIZE - (1 if "\n" in label else 0)
            middle = y + _STEP / 2
            ax.text(-0.03, middle, label, transform=place, ha="right", va="center", size=size, linespacing=0.95)
            left = 0.0
            for length, colour, name in bar.segments:
                ax.barh(middle, length, height=_STEP * 0.66, left=left, color=colour, edgecolor="none")
                if name and longest and length / longest * width > len(name) * _LETTER:
                    ax.text(left, y + _STEP + 2, name, va="center", size=svg.FONT_SIZE - 0.5)
                left += length
            if bar.tick is not None:
                ax.plot([bar.tick] * 2, [y + 2, y + _STEP - 2], color=svg.INK, linewidth=1.4)
            ax.annotate(bar.text, (left, middle), (3, 0), textcoords="offset points", va="center")
            y += step
    ax.set_ylim(y, 0)
    ax.set_yticks([])
    ax.locator_params(axis="x", nbins=4)
    ax.grid(axis="x")
    ax.set_xlabel(x_label)
    return figure


def apart(positions: np.ndarray, gap: float) -> np.ndarray:
    """Positions of labels in 0..1, moved so that neighbours keep a distance and the order stays.

    Args:
        positions: [n] float64. gap: least distance; n gaps must fit into 1, or labels leave it below.
    """
    order = np.argsort(positions, kind="stable")
    placed = positions[order].copy()
    for k in range(1, len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + gap)
    limit = 1.0
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], limit)
        limit = placed[k] - gap
    result = np.empty_like(placed)
    result[order] = placed
    return result


def log_axis(ax, which: str) -> None:
    """A logarithmic axis with few plain numbers; matplotlib's own labels are mathematics that SVG text cannot show."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(ax, f"set_{which}scale")("log")
    axis = getattr(ax, f"{which}axis")
    low, high = sorted(getattr(ax, f"get_{which}lim")())
    axis.set_major_locator(LogLocator(subs=(1,) if high / low > 30 else (1, 2, 5), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
