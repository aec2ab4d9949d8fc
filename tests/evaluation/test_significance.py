"""Paired tests against scipy and statsmodels, and their false-positive rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from scipy import stats
from statsmodels.stats.multitest import multipletests

from recbole_llm.errors import ConfigError, DataError
from recbole_llm.evaluation.significance import benjamini_hochberg, holm, paired_tests, seed_tests


def two_models(n_users=60, n_seeds=3, effect=0.1, seed=0):
    rng = np.random.default_rng(seed)
    skill = rng.normal(size=n_users)
    a = skill + effect + rng.normal(0, 0.3, (n_seeds, n_users))
    return a, skill + rng.normal(0, 0.3, (n_seeds, n_users))


def test_seeds_are_averaged_before_testing():
    a, b = two_models()
    result = paired_tests(a, b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    assert result.n_users == 60
    assert result.mean_difference == approx((mean_a - mean_b).mean())
    assert result.effect_size == approx((mean_a - mean_b).mean() / (mean_a - mean_b).std(ddof=1))
    assert result.p_values["t"] == approx(stats.ttest_rel(mean_a, mean_b).pvalue)
    assert result.p_values["wilcoxon"] == approx(stats.wilcoxon(mean_a, mean_b).pvalue)
    assert result.p_values["t"] != approx(stats.ttest_rel(a.ravel(), b.ravel()).pvalue)
    assert paired_tests(mean_a, b).p_values == result.p_values  # a closed-form model has one seed


def test_permutation_against_all_sign_flips():
    a, b = two_models(n_users=10, n_seeds=1, effect=0.25)
    exact = stats.permutation_test(
        (a[0], b[0]), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
    ).pvalue
    ours = paired_tests(a, b, tests=["permutation"], n_resamples=40_000).p_values
    assert 0.01 < exact < 0.5
    assert ours == {"permutation": approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000))}


def test_smallest_possible_permutation_p_value():
    assert paired_tests(np.ones(200) + np.arange(200), np.zeros(200), n_resamples=99).p_values["permutation"] == 1 / 100


def test_as_extreme_as_observed_counts():
    # of the eight sign patterns of three positive differences, two are as extreme as the one seen
    result = paired_tests(np.array([0.1, 0.2, 0.3]), np.zeros(3), tests=["permutation"])
    assert result.p_values == {"permutation": approx(2 / 8, abs=4 * np.sqrt(0.25 * 0.75 / 9999))}


def test_bootstrap_interval():
    a, b = two_models(n_users=500, effect=0.02)
    result = paired_tests(a, b)
    difference = a.mean(axis=0) - b.mean(axis=0)
    half = 1.96 * difference.std(ddof=1) / np.sqrt(500)  # normal at 500 users
    assert result.ci_low == approx(difference.mean() - half, abs=0.05 * half)
    assert result.ci_high == approx(difference.mean() + half, abs=0.05 * half)
    narrower = paired_tests(a, b, confidence=0.5)
    assert result.ci_low < narrower.ci_low < narrower.ci_high < result.ci_high


def test_swapping_the_models_turns_the_sign():
    a, b = two_models(effect=0.05)
    one, other = paired_tests(a, b, tests=["t", "wilcoxon"]), paired_tests(b, a, tests=["t", "wilcoxon"])
    assert other.mean_difference == approx(-one.mean_difference)
    assert other.p_values == approx(one.p_values)


def test_same_seed_same_result():
    a, b = two_models()
    assert paired_tests(a, b) == paired_tests(a, b)
    assert paired_tests(a, b, seed=1).ci_low != paired_tests(a, b).ci_low


def test_no_difference():
    a = np.array([0.1, 0.5, 0.25, 1.0, 0.3, 0.7])
    result = paired_tests(a, a)
    assert result.p_values == {"t": 1.0, "wilcoxon": 1.0, "permutation": 1.0}
    assert (result.mean_difference, result.effect_size, result.ci_low, result.ci_high) == (0, 0, 0, 0)
    # the mean of three equal seeds is not bit-equal to one of them
    assert paired_tests(np.stack([a, a, a]), a) == result


def test_the_same_difference_for_everybody():
    result = paired_tests(np.full(20, 0.3), np.full(20, 0.1), n_resamples=999)
    assert result.p_values["t"] == 0
    assert result.p_values["permutation"] == approx(0.001)
    assert result.effect_size == np.inf
    assert result.ci_low == approx(0.2) == result.ci_high


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=30), st.randoms(use_true_random=False))
def test_tied_and_zero_differences_give_a_p_value(values, random):
    a = np.array(values)
    b = np.array(random.sample(values, len(values)))
    result = paired_tests(a, b, n_resamples=99)
    assert all(0 <= p <= 1 for p in result.p_values.values())
    assert result.ci_low <= result.mean_difference + 1e-12
    assert result.mean_difference <= result.ci_high + 1e-12


@pytest.mark.slow
def test_false_positives_at_five_per_cent():
    rng = np.random.default_rng(11)
    n_runs, rejected = 3000, {"t": 0, "wilcoxon": 0, "permutation": 0}
    for run in range(n_runs):
        # two equally good models with many users at 0, as in leave-one-out
        a, b = rng.binomial(1, 0.3, (2, 120)) * rng.random((2, 120))
        for name, p_value in paired_tests(a, b, n_resamples=199, seed=run).p_values.items():
            rejected[name] += p_value <= 0.05
    for name, count in rejected.items():
        assert count / n_runs == approx(0.05, abs=0.01), name


def test_adjusted_written_out():
    # sorted .01 .02 .04; Holm: times 3, 2, 1, never below the one before; BH: times 3, 3/2, 1, never above the next
    assert holm({"x": 0.04, "y": 0.01, "z": 0.02}) == approx({"x": 0.04, "y": 0.03, "z": 0.04})
    assert benjamini_hochberg({"x": 0.04, "y": 0.01, "z": 0.02}) == approx({"x": 0.04, "y": 0.03, "z": 0.03})
    assert list(holm({"x": 0.04, "y": 0.01, "z": 0.02})) == ["x", "y", "z"]
    assert holm({}) == {}


@pytest.mark.parametrize("ours, theirs", [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
@pytest.mark.parametrize("n", [1, 2, 12])
def test_adjusted_against_statsmodels(n, ours, theirs):
    p_values = (np.random.default_rng(n).random(n) ** 3).round(2)  # some are equal
    values = ours({f"m{i}": p for i, p in enumerate(p_values)})
    assert list(values.values()) == approx(multipletests(p_values, method=theirs)[1].tolist())
    assert all(value >= p for value, p in zip(values.values(), p_values, strict=True))


class TestSeeds:
    def test_against_scipy(self):
        a, b = np.random.default_rng(3).normal(0.12, 0.002, (2, 6))
        exact = stats.permutation_test(
            (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
        ).pvalue
        expected = {"t": stats.ttest_rel(a, b).pvalue, "wilcoxon": stats.wilcoxon(a, b).pvalue, "permutation": exact}
        assert seed_tests(a, b) == approx(expected)

    def test_five_seeds_that_all_agree_give_a_sixteenth(self):
        a = np.array([0.121, 0.124, 0.122, 0.127, 0.125])
        assert seed_tests(a, a - [0.01, 0.02, 0.03, 0.04, 0.05], ["permutation"]) == {"permutation": 0.0625}

    def test_no_difference_and_the_same_difference(self):
        a = np.array([0.1, 0.2, 0.3])
        assert set(seed_tests(a, a).values()) == {1.0}
        assert seed_tests(a + 1, a)["t"] == 0.0

    @pytest.mark.parametrize("a, b", [([0.1], [0.2]), ([0.1, 0.2], [0.1]), ([0.1, np.nan], [0.1, 0.2])])
    def test_what_cannot_be_paired(self, a, b):
        with pytest.raises(DataError, match="paired seeds need 2 to 16 finite values"):
            seed_tests(a, b)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros(4), np.zeros(5), "same users on both sides, not 4 and 5"),
        (np.zeros(1), np.zeros(1), "at least two users"),
        (np.array([0.1, np.nan]), np.zeros(2), "1 values of a are not finite"),
        (np.zeros((2, 2, 2)), np.zeros(2), r"a must hold a metric of shape \[users\]"),
        (np.zeros(2), np.zeros(0), "b must hold a metric"),
    ],
)
def test_data_errors(a, b, message):
    with pytest.raises(DataError, match=message):
        paired_tests(a, b)


def test_other_errors():
    with pytest.raises(ConfigError, match="'wilcoxn' is not known; did you mean wilcoxon"):
        paired_tests(np.zeros(3), np.zeros(3), tests=["wilcoxn"])
    with pytest.raises(DataError, match="p-value of x is nan"):
        holm({"x": float("nan")})
