"""The angular Gaussian law against what it must integrate to, and against sampling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpbench.demo.angular import (
    angular_density,
    cap_probability,
    largest_entry_probability,
    orthogonal_pair,
)
from sharpbench.errors import InvalidInput

means = st.tuples(*[st.floats(-1.5, 1.5)] * 3)
variances = st.tuples(*[st.floats(0.3, 3.0)] * 3)
axes = st.sampled_from([(1, 0, 0), (0, -1, 0), (1, 1, 1), (0.2, -0.02, 0.01)])


@settings(max_examples=25, deadline=None)
@given(means, variances, axes)
def test_the_whole_sphere_has_probability_one(mean, spread, axis):
    assert cap_probability(mean, spread, axis, math.pi) == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(means, variances, axes, st.floats(0.1, 3.0))
def test_a_cap_and_its_complement_share_the_sphere(mean, spread, axis, angle):
    opposite = [-a for a in axis]
    both = cap_probability(mean, spread, axis, angle) + cap_probability(
        mean, spread, opposite, math.pi - angle
    )
    assert both == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2), means, variances)
def test_a_hemisphere_is_the_sign_of_one_entry(index, mean, spread):
    axis = np.eye(3)[index]
    expected = 0.5 * math.erfc(-mean[index] / math.sqrt(2 * spread[index]))
    assert cap_probability(mean, spread, axis, math.pi / 2) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("angle", [0.05, math.radians(15), 1.0, 2.5])
def test_without_mean_and_isotropic_it_is_the_area_of_the_cap(angle):
    found = cap_probability([0, 0, 0], [4, 4, 4], [1, 2, 3], angle)
    assert found == pytest.approx((1 - math.cos(angle)) / 2, rel=1e-12)


def test_isotropic_noise_depends_on_the_angle_to_the_mean_only():
    mean = np.array([0.3, -0.4, 1.2])
    aligned = cap_probability([0, 0, np.linalg.norm(mean)], [1, 1, 1], [0, 0, 1], 0.7)
    assert cap_probability(mean, [1, 1, 1], mean, 0.7) == pytest.approx(aligned, rel=1e-12)


def test_scaling_the_vector_changes_no_direction():
    directions = np.array([[1.0, 0, 0], [0, 0.6, -0.8]])
    base = angular_density(directions, [0.2, -0.02, 0.01], [0.2, 2, 1])
    scaled = angular_density(directions, [1.0, -0.1, 0.05], [5, 50, 25])
    np.testing.assert_allclose(scaled, base, rtol=1e-12)


def test_a_strong_mean_neither_overflows_nor_leaves_its_cap():
    assert cap_probability([50, 0, 0], [1, 1, 1], [1, 0, 0], 0.5) == pytest.approx(1.0, abs=1e-9)
    assert cap_probability([50, 0, 0], [1, 1, 1], [-1, 0, 0], 0.5) == pytest.approx(0.0, abs=1e-12)


def test_the_cap_agrees_with_sampling():
    mean, spread, axis = np.array([0.5, -0.2, 0.1]), np.array([0.3, 2.0, 1.0]), np.array([1.0, 0.5, 0.0])
    n = 200_000
    g = mean + np.sqrt(spread) * np.random.default_rng(3).standard_normal((n, 3))
    cosine = g @ axis / (np.linalg.norm(g, axis=1) * np.linalg.norm(axis))
    share = (cosine >= math.cos(0.6)).mean()
    expected = cap_probability(mean, spread, axis, 0.6)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@settings(max_examples=25, deadline=None)
@given(means, variances)
def test_one_of_the_six_axes_has_the_largest_entry(mean, spread):
    total = sum(largest_entry_probability(mean, spread, i, s) for i in range(3) for s in (-1, 1))
    assert total == pytest.approx(1.0, abs=1e-6)


def test_the_largest_entry_agrees_with_sampling():
    mean, spread, n = np.array([0.5, -0.2, 0.1]), np.array([0.3, 2.0, 1.0]), 200_000
    g = mean + np.sqrt(spread) * np.random.default_rng(4).standard_normal((n, 3))
    winner = np.abs(g).argmax(1)
    for index in range(3):
        for sign in (-1, 1):
            share = ((winner == index) & (np.sign(g[:, index]) == sign)).mean()
            expected = largest_entry_probability(mean, spread, index, sign)
            assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("pole", [(1, 0, 0), (0, 1, 0), (0.6, 0, -0.8)])
def test_the_pair_completes_a_right_handed_frame(pole):
    pole = np.array(pole, dtype=float)
    frame = np.stack([pole, *orthogonal_pair(pole)])
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-15)
    assert np.linalg.det(frame) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 0, 0], [1, 0, 1], [1, 0, 0], 0.1), "variances must be > 0"),
        (([0, 0, 0], [1, 1, 1], [0, 0, 0], 0.1), "axis must be a nonzero vector"),
        (([0, 0, 0], [1, 1, 1], [1, 0, 0], 0.0), r"half_angle must be in \(0, pi\]"),
        (([0, 0], [1, 1], [1, 0, 0], 0.1), "of shape"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        cap_probability(*arguments)
