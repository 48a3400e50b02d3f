from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sharpbench.errors import InvalidInput
from sharpbench.report.statistics import (
    combined_error,
    detectable_difference,
    hedges_g,
    holm,
    mean_interval,
    paired_difference,
)

reasonable = st.floats(-1e3, 1e3, allow_nan=False)


@given(st.lists(reasonable, min_size=2, max_size=12, unique=True))
def test_interval_is_scipys(values: list[float]) -> None:
    found = mean_interval(values)
    spread = float(np.std(values, ddof=1))
    if spread <= 1e-6:
        return
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found.low == pytest.approx(low, rel=1e-9, abs=1e-9)
    assert found.high == pytest.approx(high, rel=1e-9, abs=1e-9)
    assert found.median == np.median(values)


@given(st.lists(reasonable, min_size=2, max_size=8), reasonable, st.floats(0.01, 100))
def test_interval_moves_and_scales_with_the_data(values: list[float], shift: float, scale: float) -> None:
    before, after = mean_interval(values), mean_interval([scale * v + shift for v in values])
    assert after.mean == pytest.approx(scale * before.mean + shift, rel=1e-6, abs=1e-6)
    assert after.half_width == pytest.approx(scale * before.half_width, rel=1e-5, abs=1e-3)
    assert before.low <= before.mean <= before.high


def test_interval_covers_95_percent_at_three_seeds() -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    covered = np.mean([found.low <= 0 <= found.high for found in map(mean_interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_one_value_none_and_no_spread() -> None:
    one, none, same = mean_interval([0.5]), mean_interval([math.nan]), mean_interval([0.1 + 0.2, 0.3])
    assert (one.n, one.mean) == (1, 0.5)
    assert math.isnan(one.half_width)
    assert none.n == 0
    assert math.isnan(none.mean)
    assert same.half_width == 0.0  # rounding is not variance


def test_interval_refuses_an_impossible_confidence() -> None:
    with pytest.raises(InvalidInput, match=r"confidence must be between 0 and 1, but got 95"):
        mean_interval([1.0, 2.0], 95)


@given(st.lists(st.tuples(reasonable, reasonable), min_size=2, max_size=10))
def test_paired_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    left, right = zip(*pairs, strict=True)
    found = paired_difference(left, right)
    differences = np.subtract(left, right)
    if differences.std(ddof=1) <= 1e-6:
        return
    expected = stats.ttest_rel(left, right)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == (
        pytest.approx(low, rel=1e-6, abs=1e-6),
        pytest.approx(high, rel=1e-6, abs=1e-6),
    )


@given(st.lists(st.tuples(reasonable, reasonable), min_size=1, max_size=8))
def test_exchanging_the_two_flips_the_sign_only(pairs: list[tuple[float, float]]) -> None:
    left, right = zip(*pairs, strict=True)
    forth, back = paired_difference(left, right), paired_difference(right, left)
    assert forth.difference == -back.difference
    assert forth.n == back.n
    if math.isnan(forth.p):
        assert math.isnan(back.p)
    else:
        assert forth.p == pytest.approx(back.p)


def test_equal_differences_allow_no_test() -> None:
    # 0.9 - 0.8 and 0.7 - 0.6 differ in the last digit: an unguarded t-test gives p = 1e-16.
    found = paired_difference([0.9, 0.7, 0.5], [0.8, 0.6, 0.4])
    assert found.difference == pytest.approx(0.1)
    assert math.isnan(found.p)
    assert paired_difference([0.5, 0.7], [0.5, 0.7]).p == 1.0


def test_pairs_without_a_number_are_left_out() -> None:
    found = paired_difference([1.0, math.nan, 3.0, 5.0], [0.0, 1.0, math.nan, 2.0])
    assert (found.n, found.difference) == (2, 2.0)
    assert paired_difference([math.nan], [1.0]).n == 0
    with pytest.raises(InvalidInput, match="equally long"):
        paired_difference([1.0], [1.0, 2.0])


def test_hedges_correction_is_the_published_factor() -> None:
    # Hedges 1981, table 1: c(m) for m = 2, 4, 10 (exact gamma form).
    for m, factor in ((2, 0.5642), (4, 0.7979), (10, 0.9228)):
        assert hedges_g(1.0, m + 1) == pytest.approx(factor, abs=1e-4)
    assert math.isnan(hedges_g(1.0, 2))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.5, 0.001]) == pytest.approx([0.5, 0.002])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_an_untestable_comparison_still_counts() -> None:
    adjusted = holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.03)
    assert adjusted[2] == pytest.approx(0.08)
    assert math.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_is_between_p_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


# G*Power 3.1, two-tailed paired t-test, alpha .05, power .8: smallest d.
@pytest.mark.parametrize(("n", "expected"), [(3, 3.2640), (5, 1.6820), (10, 0.9960), (30, 0.5292)])
def test_detectable_difference_matches_power_tables(n: int, expected: float) -> None:
    assert detectable_difference(2.0, n) == pytest.approx(2.0 * expected, rel=1e-3)


def test_detectable_difference_is_found_four_times_in_five() -> None:
    n, alpha = 5, 0.05 / 10
    delta = detectable_difference(1.0, n, alpha)
    draws = np.random.default_rng(1).normal(delta, 1.0, size=(20000, n))
    assert np.mean(stats.ttest_1samp(draws, 0.0, axis=1).pvalue < alpha) == pytest.approx(0.8, abs=0.01)


@settings(max_examples=30)
@given(st.integers(2, 30), st.integers(1, 1000))
def test_more_comparisons_hide_larger_differences(n: int, comparisons: int) -> None:
    alone, among = detectable_difference(1.0, n), detectable_difference(1.0, n, 0.05 / comparisons)
    assert math.isfinite(among)
    assert among >= alone * (1 - 1e-9)
    assert detectable_difference(1.0, n + 1) < alone


def test_detectable_difference_without_a_spread_or_with_a_bad_level() -> None:
    assert math.isnan(detectable_difference(1.0, 1))
    assert math.isnan(detectable_difference(math.nan, 5))
    with pytest.raises(InvalidInput, match="alpha and power"):
        detectable_difference(1.0, 5, alpha=0.9, power=0.8)


def test_combined_error_is_scatter_or_measurement_error_whichever_is_larger() -> None:
    assert combined_error([1.0, 3.0], [0.0, 0.0]) == pytest.approx(1.0)
    assert combined_error([1.0, 1.0], [0.3, 0.4]) == pytest.approx(0.25)
    assert combined_error([2.0], [0.5]) == pytest.approx(0.5)
    assert combined_error([2.0, math.nan], [0.5, 9.0]) == pytest.approx(0.5)
    assert math.isnan(combined_error([2.0], [math.nan]))
