"""Tables as plain text cells, and how numbers are written: what the renderers of a report share."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# how the marks of a row read: the reference against it, see comparison.differences.Test.mark
REFERENCE_BETTER, REFERENCE_WORSE, IS_REFERENCE = "▼", "▲", "†"
NOTHING = "–"
TEST_NAMES = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test", "permutation": "paired permutation test"}
LEVEL = 0.05


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: unescaped.
        rank: 1 best of its column (bold), 2 second best (underlined), 0 neither.
        mark: raised sign behind the text, one of the three above, or "".
        span: columns that it covers.
    """

    text: str
    rank: int = 0
    mark: str = ""
    span: int = 1


@dataclass(frozen=True)
class Column:
    """Head of a column; text columns stand left, numbers right."""

    title: str
    text: bool = False


@dataclass(frozen=True)
class Grid:
    """A table without its formatting.

    Attributes:
        name: short, of letters and digits; unique among the grids of a section.
        notes: sentences that belong beneath it.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def number(value: float) -> str:
    """Four decimals below 10, fewer above, with a real minus sign."""
    if not math.isfinite(value):
        return str(value).replace("inf", "∞").replace("-", "−")
    decimals = 4 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return _minus(f"{value:,.{decimals}f}")


def mean_sd(mean: float, sd: float | None) -> str:
    """``0.1234 ± 0.0012``, the deviation with the decimals of the mean; the mean alone where there is none."""
    text = number(mean)
    if sd is None:
        return text
    decimals = len(text.partition(".")[2])
    return f"{text} ± {sd:,.{decimals}f}"


def over_runs(values: Sequence[float]) -> str:
    """Mean and, of several runs, standard deviation (n - 1)."""
    return mean_sd(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def signed(value: float) -> str:
    """A difference, with its sign."""
    return number(value) if value < 0 or value == 0 else f"+{number(value)}"


def effect(value: float) -> str:
    """An effect size, two decimals."""
    return _minus(f"{value:.2f}") if math.isfinite(value) else number(value)


def interval(low: float, high: float) -> str:
    """A confidence interval."""
    return f"{signed(low)} to {signed(high)}"


def p_value(p: float) -> str:
    """Two significant digits; below 0.0001 in powers of ten."""
    return f"{p:.2g}"


def percent(share: float) -> str:
    """A share of 1 as percent, one decimal."""
    return f"{share:.1%}".replace("%", " %")


def seconds(value: float | None) -> str:
    """Seconds with about three significant digits; a dash where nothing was measured."""
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def mib(n_bytes: int) -> str:
    """Bytes as whole MiB."""
    return f"{n_bytes / 2**20:,.0f}"


def settings(values: Mapping[str, object]) -> str:
    """``key=value, key=value``, long fractions to four significant digits."""
    return ", ".join(f"{key}={_short(value)}" for key, value in values.items())


def _short(value: object) -> str:
    digits = f"{value:.4g}" if isinstance(value, float) else str(value)
    return str(value) if isinstance(value, float) and float(digits) == value else digits


def shortened(text: str, longest: int) -> str:
    """The text, cut to so many letters with an ellipsis at the end."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def listed(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = list(parts) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def failures(runs: Sequence[tuple[int, str]]) -> str:
    """Seeds that failed, by reason: ``seeds 1 and 2: out of memory; seed 3: ...``."""
    by_reason: dict[str, list[int]] = {}
    for seed, reason in runs:
        by_reason.setdefault(" ".join(reason.split()) or "no reason given", []).append(seed)
    return "; ".join(
        f"seed{'s' * (len(seeds) > 1)} {listed(map(str, seeds))}: {reason}" for reason, seeds in by_reason.items()
    )


def _minus(text: str) -> str:
    return text.replace("-", "−")
