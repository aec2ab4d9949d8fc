"""Per-user win and loss figures: the reference against every other row, one point a group of users that coincide."""

from collections.abc import Iterator

import numpy as np

from recbole_llm.report import cells, svg
from recbole_llm.report.sections import Section

BINS = 40  # a side; more points than that can be told apart in neither width nor file size
TIE = 1e-12  # the comparison's own bound for equal metrics
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # users a dot stands for, rounded down to one of these


def binned(x: np.ndarray, y: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users gathered into dots; wins, losses and ties never share one.

    Args:
        x, y: metric of every user in 0..1, of the other row and of the reference. [users] float64.
    Returns:
        mean x [dots], mean y [dots], users [dots] int64, sign of y - x [dots] in -1, 0, 1.
    """
    difference = y - x
    sign = np.where(np.abs(difference) <= TIE, 0, np.sign(difference)).astype(np.int64)
    cell = np.stack([np.rint(x * bins), np.rint(y * bins), sign]).astype(np.int64)
    _, dot, counts = np.unique(cell, axis=1, return_inverse=True, return_counts=True)
    dot = dot.ravel()
    mean_x, mean_y = (np.bincount(dot, v) / counts for v in (x, y))
    dot_sign = np.zeros(len(counts), np.int64)
    dot_sign[dot] = sign
    return mean_x, mean_y, counts, dot_sign


def win_loss(section: Section, runs, colours) -> Iterator[tuple]:
    """One figure a row: a user's metric under the row (x) and under the reference (y)."""
    reference, metric = section.table.reference, section.main_metric
    ours = section.users.get(reference)
    if ours is None:
        return
    for label, theirs in section.users.items():
        if label == reference:
            continue
        x, y, counts, sign = binned(theirs, ours)
        figure = svg.figure(svg.WIDTH * 0.92)
        ax = svg.axes(figure, 40, 34, 8, 8)
        top = max(float(ours.max()), float(theirs.max()), 1e-9) * 1.06
        ax.plot([0, top], [0, top], color=svg.MUTED, linewidth=0.7)
        for value, colour, marker in ((0, svg.MUTED, "o"), (-1, svg.colour(1), "v"), (1, svg.colour(0), "^")):
            for k, size in enumerate(_SIZES):
                upper = _SIZES[k + 1] if k + 1 < len(_SIZES) else np.inf
                chosen = (sign == value) & (counts >= size) & (counts < upper)
                if chosen.any():
                    area = {"ms": 3.2 * size**0.35, "alpha": 0.6, "markeredgewidth": 0}
                    ax.plot(x[chosen], y[chosen], marker, color=colour, linestyle="none", clip_on=False, **area)
        ax.set_xlim(-0.02 * top, top)
        ax.set_ylim(-0.02 * top, top)
        ax.grid()
        ax.set_xlabel(cells.shortened(f"{metric}, {label}", 44))
        ax.set_ylabel(cells.shortened(f"{metric}, {reference}", 44))
        difference = ours - theirs
        shares = [float(s.mean()) for s in (difference > TIE, difference < -TIE, np.abs(difference) <= TIE)]
        wins, losses, ties = map(cells.percent, shares)
        caption = (
            f"{reference} is better for {wins} of {len(ours):,} users (▲), worse for {losses} (▼), equal for {ties} "
            "(●). Larger marks stand for more users."
        )
        title = f"{reference} against {label}"
        yield "users", title, caption, f"{metric} of every user, {title}. {caption}", figure
