"""Figures of a search: its history, learning curves, parallel coordinates, the importance of settings."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recbole_llm.report import charts, svg
from recbole_llm.report.cells import number, percent, shortened
from recbole_llm.report.figures import Picture
from recbole_llm.tuning.ledger import FINISHED, Trial, ranked
from recbole_llm.tuning.space import Domain

GROUP, GROUPS = "search", {"search": "The search"}
_AXIS = 62.0  # points between two axes of parallel coordinates, at least
_BEST_SHARE = 0.25  # of the trials drawn strongly in parallel coordinates


def draw(
    space: Mapping[str, Domain], trials: Sequence[Trial], shares: Mapping[str, float], metric: str, slug: str
) -> list[Picture]:
    """All figures that the trials have something for.

    Args:
        shares: importance of settings, see ``tuning.importance``. slug: of the section they stand in.
    """
    pictures = []
    with svg.style():
        for title, caption, figure in _figures(space, trials, shares, metric):
            prefix = f"{slug}-f{len(pictures)}-"
            pictures.append(Picture(GROUP, title, caption, svg.render(figure, prefix, f"{title}. {caption}")))
    return pictures


def _figures(space, trials, shares, metric) -> Iterator[tuple]:
    scored = sorted(ranked(trials), key=lambda trial: trial.number)
    yield "Optimisation history", *_history(scored, metric)
    if any(len(trial.history) > 1 for trial in scored):
        yield "Learning curves", *_curves(scored, metric)
    yield "Parallel coordinates", *_parallel(space, scored, metric)
    if shares:
        bars = [charts.Bar(key, ((share, svg.colour(0), ""),), percent(share)) for key, share in shares.items()]
        told = "; ".join(f"{key} {percent(share)}" for key, share in shares.items())
        caption = f"Share of the variance of validation {metric} that a setting alone explains, by fANOVA: {told}."
        yield "Importance of settings", caption, charts.bars({"": bars}, "share of the variance")


def _history(scored: Sequence[Trial], metric: str) -> tuple:
    figure = svg.figure(150.0)
    ax = svg.axes(figure, 46, 32, 14, 8)
    numbers, scores = [t.number for t in scored], [t.score for t in scored]
    best = [max(scored[: k + 1], key=lambda t: t.order).score for k in range(len(scored))]
    ax.step(numbers, best, where="post", color=svg.INK)
    for status, face in ((True, svg.colour(0)), (False, "none")):
        own = [(t.number, t.score) for t in scored if (t.status == FINISHED) is status]
        if own:
            ax.plot(*zip(*own, strict=True), "o", ms=4, markerfacecolor=face, markeredgecolor=svg.colour(0))
    ax.xaxis.get_major_locator().set_params(integer=True, nbins=6, min_n_ticks=1)
    ax.locator_params(axis="y", nbins=4)
    ax.grid(axis="y")
    ax.set_xlabel("trial, by start")
    ax.set_ylabel(metric)
    top = max(scored, key=lambda t: t.order)
    caption = (
        f"Validation {metric} of every trial, filled where it ran to its end, hollow where it was stopped; the line is "
        f"the best so far. Least {number(min(scores))}, best {number(top.score)} by trial {top.number}."
    )
    return caption, figure


def _curves(scored: Sequence[Trial], metric: str) -> tuple:
    figure = svg.figure(150.0)
    ax = svg.axes(figure, 46, 32, 14, 8)
    top = max(scored, key=lambda t: t.order)
    for trial in [*(t for t in scored if t is not top), top]:
        epochs, values = np.array(trial.history).T
        style = {"color": svg.INK, "linewidth": 1.4} if trial is top else {"color": svg.colour(0), "alpha": 0.45}
        ax.plot(epochs, values, "o-" if len(epochs) == 1 else "-", ms=2.5, **style)
    ax.xaxis.get_major_locator().set_params(integer=True, nbins=6, min_n_ticks=1)
    ax.locator_params(axis="y", nbins=4)
    ax.grid(axis="y")
    ax.set_xlabel("epoch, all stages")
    ax.set_ylabel(metric)
    return f"Validation {metric} by epoch, one line a trial, the best one dark; lines end where trials ended.", figure


def _parallel(space: Mapping[str, Domain], scored: Sequence[Trial], metric: str) -> tuple:
    """Settings one below the other, so that names have room on a phone; the score is the last."""
    names = [*space, metric]
    figure = svg.figure(_AXIS * 0.62 * len(names) + 14)
    ax = svg.axes(figure, 98, 12, 14, 12)
    orders = np.array([trial.order for trial in scored])
    spread = np.ptp(orders) or 1.0
    strong = {trial.id for trial in ranked(scored)[: max(1, round(_BEST_SHARE * len(scored)))]}
    for trial in sorted(scored, key=lambda t: t.order):
        places = [domain.place(_value(domain, trial.point[key])) for key, domain in space.items()]
        places.append((trial.order - orders.min()) / spread)
        good = trial.id in strong
        ax.plot(places, range(len(names)), "-", color=svg.colour(0 if good else 1), alpha=0.9 if good else 0.3)
    for k, key in enumerate(names):
        ax.axhline(k, color=svg.RULE, linewidth=0.8, zorder=0)
        ax.text(-0.06, k, shortened(key, 22), ha="right", va="center", clip_on=False)
        ends = _ends(space[key]) if key in space else tuple(number(t.score) for t in _extremes(scored))
        for x, text, side in ((0.0, ends[0], "left"), (1.0, ends[1], "right")):
            ax.text(x, k + 0.08, shortened(text, 18), ha=side, va="top", size=svg.FONT_SIZE - 1, color=svg.MUTED)
    ax.set_ylim(len(names) - 0.5, -0.4)
    ax.set_xlim(-0.03, 1.03)
    ax.set_axis_off()
    caption = (
        "A line a trial through its settings, each from its lowest to its highest (logarithmic where the space is), "
        f"to its validation {metric}; the best quarter strong."
    )
    return caption, figure


def _value(domain: Domain, value):
    from recbole_llm.tuning.space import encoded

    if domain.kind == "choice":
        return next(mine for mine in domain.args if encoded(mine) == value)
    return value


def _ends(domain: Domain) -> tuple[str, str]:
    first, last = domain.args[0], domain.args[-1 if domain.kind == "choice" else 1]
    return tuple(f"{v:.4g}" if isinstance(v, float) else str(v) for v in (first, last))


def _extremes(scored: Sequence[Trial]) -> tuple[Trial, Trial]:
    return min(scored, key=lambda t: t.order), max(scored, key=lambda t: t.order)
