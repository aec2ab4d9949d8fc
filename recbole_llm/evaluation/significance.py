"""Paired tests between two models over users and over seeds, and corrections for several comparisons."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llm.errors import ConfigError, DataError

TESTS = ("t", "wilcoxon", "permutation")
_FLOATS_PER_CHUNK = 1_000_000


@dataclass(frozen=True)
class PairedResult:
    """How model a differs from model b over the same users.

    Attributes:
        n_users: pairs.
        mean_difference: mean of a - b, in the unit of the metric.
        effect_size: Cohen's d_z: mean difference over the standard deviation (n - 1) of the differences; 0 when all
            differences are 0, infinite when they are equal and not 0.
        p_values: two-sided, per test asked for.
        ci_low, ci_high: percentile bootstrap interval of the mean difference, users resampled.
        confidence: its level, for example 0.95.
    """

    n_users: int
    mean_difference: float
    effect_size: float
    p_values: dict[str, float]
    ci_low: float
    ci_high: float
    confidence: float


def paired_tests(
    a: np.ndarray,
    b: np.ndarray,
    tests: Sequence[str] = TESTS,
    *,
    n_resamples: int = 9999,
    confidence: float = 0.95,
    seed: int = 2020,
) -> PairedResult:
    """Test whether two models differ; a user's metric is averaged over seeds first, so a user is one observation.

    Args:
        a: metric per seed and user, same user order in both. [seeds, users] or [users] float.
        b: likewise; its number of seeds may differ.
        tests: of "t" (paired t-test), "wilcoxon" (signed rank, zero differences dropped), "permutation" (signs of the
            differences flipped at random, p = (1 + extreme) / (1 + n_resamples)).
        n_resamples: permutations, and bootstrap samples.
        confidence: level of the interval, in (0, 1).
        seed: of the permutations and the bootstrap.
    Raises:
        DataError: when users do not match, are fewer than two, or a value is not finite.
        ConfigError: on an unknown test.
    """
    for test in tests:
        if test not in TESTS:
            near = difflib.get_close_matches(str(test), TESTS, 1)
            raise ConfigError(f"tests: {test!r} is not known; {f'did you mean {near[0]}?' if near else TESTS}")
    mean_a, mean_b = _per_user("a", a), _per_user("b", b)
    if mean_a.shape != mean_b.shape:
        raise DataError(f"a paired test needs the same users on both sides, not {len(mean_a)} and {len(mean_b)}")
    if len(mean_a) < 2:
        raise DataError("a paired test needs at least two users")
    # averages over a different number of seeds differ by rounding even where the metric agrees; a sign or rank test
    # would take that for evidence
    difference = np.where(np.isclose(mean_a, mean_b, rtol=1e-12, atol=1e-12), 0.0, mean_a - mean_b)

    mean, sd = float(difference.mean()), float(difference.std(ddof=1))
    if np.ptp(difference) == 0:
        sd = 0.0  # the mean of equal numbers can be off by rounding
    rng = np.random.default_rng(seed)
    run = {
        "t": lambda: _t_test(difference, sd),
        "wilcoxon": lambda: _wilcoxon(difference),
        "permutation": lambda: _permutation(difference, n_resamples, rng),
    }
    all_zero = not difference.any()
    low, high = _bootstrap(difference, confidence, n_resamples, rng)
    return PairedResult(
        n_users=len(difference),
        mean_difference=mean,
        effect_size=mean / sd if sd else float(np.sign(mean) * np.inf if mean else 0.0),
        p_values={test: 1.0 if all_zero else run[test]() for test in tests},
        ci_low=low,
        ci_high=high,
        confidence=confidence,
    )


def seed_tests(a: np.ndarray, b: np.ndarray, tests: Sequence[str] = TESTS) -> dict[str, float]:
    """Two-sided p-values over paired seeds: whether the training's randomness alone could have made the difference.

    Args:
        a: a model's mean metric by seed; b: the other's, by the same seeds. [seeds] float, at least two.
        tests: see :func:`paired_tests`; the permutation test goes through all 2^seeds sign patterns, so its smallest
            p-value is 2 / 2^seeds: .0625 with five.
    Raises:
        DataError: when the seeds do not match, are fewer than two or more than 16, or a value is not finite.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not 2 <= len(a) <= 16 or not np.isfinite([a, b]).all():
        raise DataError(f"paired seeds need 2 to 16 finite values on both sides, not {a.shape} and {b.shape}")
    difference = np.where(np.isclose(a, b, rtol=1e-12, atol=1e-12), 0.0, a - b)
    if not difference.any():
        return dict.fromkeys(tests, 1.0)
    sd = 0.0 if np.ptp(difference) == 0 else float(difference.std(ddof=1))
    signs = 1.0 - 2.0 * (np.arange(2 ** len(a))[:, None] >> np.arange(len(a)) & 1)  # [2^seeds, seeds]
    slack = 1e-9 * np.abs(difference).sum()
    run = {
        "t": lambda: _t_test(difference, sd),
        "wilcoxon": lambda: _wilcoxon(difference),
        "permutation": lambda: float(np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - slack)),
    }
    return {test: run[test]() for test in tests}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted by Holm's step-down method (Holm 1979): the chance of any false mark stays below the level.

    Args:
        p_values: of all comparisons of one table, by name. Each in 0..1.
    Returns:
        Adjusted values, same keys and order.
    Raises:
        DataError: when a value is not in 0..1.
    """
    ordered = np.sort(_checked(p_values))
    stepped = np.minimum(np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)), 1.0)
    return {name: float(stepped[np.searchsorted(ordered, p, side="right") - 1]) for name, p in p_values.items()}


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted by Benjamini & Hochberg (1995): the expected share of false marks among the marks stays below
    the level. Arguments as in :func:`holm`."""
    from scipy import stats

    adjusted = stats.false_discovery_control(_checked(p_values), method="bh") if p_values else []
    return dict(zip(p_values, map(float, adjusted), strict=True))


def _checked(p_values: Mapping[str, float]) -> np.ndarray:
    for name, p_value in p_values.items():
        if not 0 <= p_value <= 1:
            raise DataError(f"the p-value of {name} is {p_value}, not in 0..1")
    return np.array(list(p_values.values()), dtype=np.float64)


def _per_user(name: str, values: np.ndarray) -> np.ndarray:
    """Mean over seeds. [seeds, users] or [users] -> [users] float64."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise DataError(f"{name} must hold a metric of shape [users] or [seeds, users], not {list(values.shape)}")
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad:
        raise DataError(f"{n_bad} values of {name} are not finite; leave out users without this metric on both sides")
    return values if values.ndim == 1 else values.mean(axis=0)


def _t_test(difference: np.ndarray, sd: float) -> float:
    from scipy import stats

    if sd == 0:
        return 0.0  # equal differences that are not 0: the statistic is infinite
    t = difference.mean() / (sd / np.sqrt(len(difference)))
    return float(2 * stats.t.sf(abs(t), len(difference) - 1))


def _wilcoxon(difference: np.ndarray) -> float:
    from scipy import stats

    # zeros go first: the choice of the exact method must depend on the pairs that count
    return float(stats.wilcoxon(difference[difference != 0]).pvalue)


def _permutation(difference: np.ndarray, n_resamples: int, rng: np.random.Generator) -> float:
    difference = difference[difference != 0]  # flipping a zero changes nothing
    observed = abs(difference.sum())
    slack = 1e-9 * np.abs(difference).sum()  # sums of the same numbers in another order are equal, up to rounding
    extreme = 0
    for size in _chunks(n_resamples, len(difference)):
        signs = rng.integers(0, 2, size=(size, len(difference)), dtype=np.int8) * 2.0 - 1.0
        extreme += int((np.abs(signs @ difference) >= observed - slack).sum())
    return (1 + extreme) / (1 + n_resamples)


def _bootstrap(
    difference: np.ndarray, confidence: float, n_resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    n = len(difference)
    means = [difference[rng.integers(0, n, size=(size, n))].mean(axis=1) for size in _chunks(n_resamples, n)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _chunks(total: int, width: int) -> list[int]:
    """Sizes that sum to ``total``, each small enough that size * width stays below a fixed number of floats."""
    size = max(1, _FLOATS_PER_CHUNK // max(width, 1))
    return [size] * (total // size) + ([total % size] if total % size else [])
