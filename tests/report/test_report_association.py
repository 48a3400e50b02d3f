from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sharpbench.errors import InvalidInput
from sharpbench.report.association import kendall, kendall_within, pearson, spearman
from sharpbench.report.granulated import granulated_kendall
from sharpbench.report.layout import Layout
from sharpbench.report.numbers import linear_evidence, pearson_scores, spearman_scores
from sharpbench.report.rank_pairs import kendall_evidence
from sharpbench.report.sample import Sample

# Few distinct values: ties are the hard part.
tied = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=15)
PEERS = ((kendall, stats.kendalltau), (spearman, stats.spearmanr), (pearson, stats.pearsonr))


@settings(max_examples=60, deadline=None)
@given(tied)
def test_values_are_scipys_ties_included(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    for ours, theirs in PEERS:
        found = ours(x, y, range(len(x))).value
        if len(set(x)) == 1 or len(set(y)) == 1:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(theirs(x, y)[0], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(tied, st.randoms(use_true_random=False))
def test_each_draw_is_the_statistic_of_that_resample(pairs: list[tuple[int, int]], random) -> None:
    """The weighted forms against scipy on the resample written out, run by run."""
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    codes = np.array([random.randrange(3) for _ in pairs])
    counts = np.array([[random.randrange(3) for _ in range(3)]], dtype=float)
    repeat = counts[0, codes].astype(int)
    long_x, long_y = np.repeat(x, repeat), np.repeat(y, repeat)
    if len(set(long_x)) < 2 or len(set(long_y)) < 2:
        return
    layout = Layout(codes, (3, 1), np.arange(3)[None, :])
    layout.__dict__["weights"] = np.vstack([np.ones((1, 3)), counts])
    sample = Sample(x, y, layout, np.arange(len(x)))
    forms = (
        kendall_evidence(sample),
        linear_evidence(sample, spearman_scores),
        linear_evidence(sample, pearson_scores),
    )
    for form, (_, theirs) in zip(forms, PEERS, strict=True):
        assert form.resampled[0] == pytest.approx(theirs(long_x, long_y)[0], abs=1e-9)


def test_intervals_hold_the_value_and_widen_with_clustering() -> None:
    rng = np.random.default_rng(0)
    base_x = rng.normal(size=20)
    base_y = base_x + rng.normal(size=20)
    x, y = (
        np.repeat(base_x, 5) + 1e-3 * rng.normal(size=100),
        np.repeat(base_y, 5) + 1e-3 * rng.normal(size=100),
    )
    clustered = kendall(x, y, [i // 5 for i in range(100)])
    naive = kendall(x, y, range(100))
    assert clustered.low < clustered.value < clustered.high
    # Five near copies of each configuration are not five times the evidence.
    assert clustered.high - clustered.low > 1.7 * (naive.high - naive.low)


def test_interval_covers() -> None:
    """Pearson's r of correlated normals: the truth lies inside about 95 % of the time."""
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        x = rng.normal(size=40)
        y = 0.5 * x + math.sqrt(0.75) * rng.normal(size=40)
        found = pearson(x, y, range(40))
        inside += found.low <= 0.5 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_too_few_or_equal_values_have_no_interval() -> None:
    four = kendall([1, 2, 3, 4], [1, 2, 4, 3], "abcd")
    assert four.value == pytest.approx(2 / 3)
    assert math.isnan(four.low)
    assert not four.shows_a_link
    assert math.isnan(kendall([1.0], [2.0], "a").value)
    assert four.reason.startswith("too few")
    # All pairs agree in every draw of the bootstrap: not an interval of width zero.
    eight = kendall(range(8), range(8), range(8))
    assert 0.1 < eight.low < 0.8
    assert eight.high == 1.0


def test_runs_without_a_number_are_left_out() -> None:
    found = kendall([1, 2, math.nan, 3, math.inf], [1, 2, 3, 3, 1], "aabbc")
    assert (found.value, found.runs, found.clusters) == (pytest.approx(1.0), 3, 2)
    with pytest.raises(InvalidInput, match="equally long"):
        kendall([1], [1, 2], "ab")


def test_granulated_is_the_average_of_taus_on_a_complete_grid() -> None:
    rng = np.random.default_rng(3)
    grid = list(itertools.product(range(4), range(3), range(5)))  # optimizer, noise, seed
    x, y = rng.normal(size=len(grid)), rng.normal(size=len(grid))
    axes = {"optimizer": [g[0] for g in grid], "noise": [g[1] for g in grid]}
    found = granulated_kendall(x, y, axes, [g[2] for g in grid])
    for place, name in enumerate(axes):
        groups: dict[tuple[int, int], list[int]] = {}
        for index, point in enumerate(grid):
            groups.setdefault((point[1 - place], point[2]), []).append(index)
        taus = [stats.kendalltau(x[rows], y[rows])[0] for rows in groups.values()]
        assert found[name].value == pytest.approx(np.mean(taus), abs=1e-12)
    assert found["mean"].value == pytest.approx((found["optimizer"].value + found["noise"].value) / 2)
    assert found["mean"].low < found["mean"].value < found["mean"].high


def test_a_common_driver_shows_in_tau_but_not_in_psi() -> None:
    rng = np.random.default_rng(4)
    grid = list(itertools.product(range(6), (0, 10), range(3)))
    noise = np.array([g[1] for g in grid])
    x, y = noise + rng.normal(size=len(grid)), noise + rng.normal(size=len(grid))
    found = granulated_kendall(
        x, y, {"optimizer": [g[0] for g in grid], "noise": list(noise)}, [g[2] for g in grid]
    )
    configurations = [(g[0], g[1]) for g in grid]
    assert kendall(x, y, configurations).value > 0.4
    assert abs(found["optimizer"].value) < 0.25
    assert found["noise"].value == 1.0


def test_granulated_with_nothing_to_compare() -> None:
    assert granulated_kendall([1, 2], [1, 2], {"optimizer": ["sgd", "sgd"]}, [0, 1]) == {}
    # Two axes that always change together: no pair differs in one alone.
    found = granulated_kendall([1, 2], [1, 2], {"a": [0, 1], "b": [0, 1]}, [0, 0])
    assert math.isnan(found["a"].value)
    assert "mean" not in found


def test_same_data_same_interval() -> None:
    x, y = np.random.default_rng(5).normal(size=(2, 30))
    assert kendall(x, y, range(30)) == kendall(x, y, range(30))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), min_size=3, max_size=14))
def test_within_counts_only_pairs_of_one_stratum(runs: list[tuple[int, int, int]]) -> None:
    x, y, strata = zip(*runs, strict=True)
    agree = untied_x = untied_y = 0
    for (a, b, s), (c, d, t) in itertools.combinations(runs, 2):
        if s == t:
            agree += np.sign(a - c) * np.sign(b - d)
            untied_x, untied_y = untied_x + (a != c), untied_y + (b != d)
    found = kendall_within(x, y, strata, range(len(x))).value
    if untied_x and untied_y:
        assert found == pytest.approx(agree / math.sqrt(untied_x * untied_y), abs=1e-12)
    else:
        assert math.isnan(found)


def test_a_shift_between_conditions_reverses_tau_but_not_tau_within() -> None:
    rng = np.random.default_rng(6)
    strata = np.repeat([0, 1], 20)
    x = 10.0 * strata + rng.normal(size=40)
    y = -10.0 * strata + x - 10.0 * strata + 0.1 * rng.normal(size=40)
    y[3] = math.nan
    configurations = [i // 2 for i in range(40)]
    assert kendall(x, y, configurations).value < 0
    assert kendall_within(x, y, strata, configurations).low > 0.5
