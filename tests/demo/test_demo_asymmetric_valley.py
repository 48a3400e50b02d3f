"""The asymmetric-valley demonstration: its function, its walks against the optimizers, its numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpbench.demo import DEMOS
from sharpbench.demo.asymmetric_valley import LR, RHO, SCENARIOS, VALLEY, describe, measure
from sharpbench.demo.valley import RULES, Valley, expected_slope, walk, wrong_sign_probability
from sharpbench.demo.valley_exact import expected_steps
from sharpbench.errors import InvalidInput
from sharpbench.optim import build

shapes = st.builds(Valley, st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0.2, 5))
places = st.floats(-20, 20)


@given(shapes, places)
def test_the_slope_is_the_derivative_of_the_loss(valley, x):
    step = 1e-5 * valley.width
    difference = (valley.loss(x + step) - valley.loss(x - step)) / (2 * step)
    scale = valley.sharp + valley.flat
    assert float(valley.slope(x)) == pytest.approx(float(difference), abs=1e-4 * scale)


@given(shapes, places, places)
def test_the_valley_is_convex_with_its_minimum_at_zero(valley, x, y):
    assert float(valley.slope(0.0)) == 0.0
    assert float(valley.loss(0.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(valley.loss(x)) >= -1e-12
    low, high = sorted((x, y))
    assert float(valley.slope(low)) <= float(valley.slope(high)) + 1e-12


@given(shapes)
def test_its_slopes_far_out_are_those_named(valley):
    far = 100 * valley.width
    assert float(valley.slope(-far)) == pytest.approx(-valley.sharp, rel=1e-9)
    assert float(valley.slope(far)) == pytest.approx(valley.flat, rel=1e-9)


def test_far_out_the_loss_does_not_overflow():
    assert float(Valley().loss(-1e6)) == pytest.approx(2e6, rel=1e-5)


def test_impossible_shapes_are_refused():
    with pytest.raises(InvalidInput, match="flat must be > 0"):
        Valley(flat=0.0)


@pytest.mark.parametrize(
    ("rule", "name", "parameters"),
    [
        ("sgd", "sgd", {}),
        ("noisy_sam", "sam", {"rho": RHO}),
        # In one dimension InfoSAM's C is a positive number: the same walk.
        ("noisy_sam", "infosam", {"rho": RHO}),
        ("vasso_0.1", "vasso", {"rho": RHO, "theta": 0.1, "epsilon": 0.0}),
        ("vasso_0.9", "vasso", {"rho": RHO, "theta": 0.9, "epsilon": 0.0}),
    ],
)
def test_a_walk_is_that_of_the_optimizer(rule, name, parameters):
    noise = np.random.default_rng(2).standard_normal((60, 1)) * 2.0
    x = torch.nn.Parameter(torch.tensor([-1.5], dtype=torch.float64))
    optimizer = build(name, torch.optim.SGD([("weight", x)], lr=LR), **parameters)
    positions = [-1.5]
    for value in noise[:, 0]:

        def closure(value=value):
            x.grad = torch.from_numpy(VALLEY.slope(x.detach().numpy()) + value)
            return torch.zeros(())

        optimizer.step(closure)
        positions.append(float(x.detach()))
    ours = walk(VALLEY, rule, -1.5, noise, LR, RHO).position[:, 0]
    np.testing.assert_allclose(ours, positions, rtol=1e-12, atol=1e-14)


def test_without_noise_noisy_sam_is_ideal_sam():
    still = np.zeros((100, 1))
    ideal = walk(VALLEY, "ideal_sam", 2.0, still, LR, RHO)
    np.testing.assert_array_equal(ideal.position, walk(VALLEY, "noisy_sam", 2.0, still, LR, RHO).position)
    np.testing.assert_array_equal(ideal.position, walk(VALLEY, "vasso_0.9", 2.0, still, LR, RHO).position[:])
    assert not ideal.wrong.any()


def test_without_radius_every_rule_is_sgd():
    noise = np.random.default_rng(0).standard_normal((50, 3))
    plain = walk(VALLEY, "sgd", 1.0, noise, LR, 0.0).position
    for rule in RULES:
        np.testing.assert_array_equal(walk(VALLEY, rule, 1.0, noise, LR, 0.0).position, plain)


def test_an_unknown_rule_is_refused():
    with pytest.raises(InvalidInput, match="did you mean 'ideal_sam'"):
        walk(VALLEY, "idealsam", 1.0, np.zeros((2, 1)), LR, RHO)
    with pytest.raises(InvalidInput, match="rule without memory"):
        expected_slope(VALLEY, "vasso_0.1", 1.0, 1.0, RHO)
    with pytest.raises(InvalidInput, match="rule without memory"):
        expected_steps(VALLEY, "vasso_0.1", 1.0, 1.0, LR, RHO, 10)


def test_the_first_crossing_is_counted_from_either_side():
    noise = np.zeros((3, 1))
    noise[1] = -200.0  # the second step goes far to the right
    assert walk(VALLEY, "sgd", -1.5, noise, LR, RHO).first_crossing().tolist() == [2.0]
    assert walk(VALLEY, "sgd", 1.5, -noise, LR, RHO).first_crossing().tolist() == [2.0]
    assert walk(VALLEY, "sgd", 1.5, 0 * noise, LR, RHO).first_crossing().tolist() == [3.0]


@pytest.mark.parametrize("x", [-3.0, -0.7, 0.0, 0.4, 2.0])
@pytest.mark.parametrize("rule", ["sgd", "ideal_sam", "noisy_sam"])
def test_the_mean_of_one_step_is_the_expected_slope(rule, x):
    sigma, n = 1.5, 40_000
    noise = np.random.default_rng(9).standard_normal((1, n)) * sigma
    noise = np.concatenate([noise, -noise], axis=1)  # its own mean is exactly zero
    step = (x - walk(VALLEY, rule, x, noise, LR, RHO).position[1]) / LR
    error = (step - noise[0]).std() / math.sqrt(2 * n)
    assert abs(step.mean() - float(expected_slope(VALLEY, rule, x, sigma, RHO))) <= 4 * error + 1e-12


@pytest.mark.parametrize("x", [-1.5, 0.3, 2.0])
def test_the_wrong_sign_comes_as_often_as_it_should(x):
    sigma, n = 1.5, 100_000
    noise = np.random.default_rng(1).standard_normal((1, n)) * sigma
    share = walk(VALLEY, "noisy_sam", x, noise, LR, RHO).wrong.mean()
    p = float(wrong_sign_probability(VALLEY, x, sigma))
    assert p == pytest.approx(0.5 * math.erfc(abs(float(VALLEY.slope(x))) / sigma / math.sqrt(2)), rel=1e-12)
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_a_coin_flip_makes_the_flatter_slope_slower_everywhere():
    x = np.linspace(0.01, 5, 200)
    noisy = expected_slope(VALLEY, "noisy_sam", x, 1e9, RHO)
    assert (noisy < VALLEY.slope(x)).all()
    assert (expected_slope(VALLEY, "ideal_sam", x, 1e9, RHO) > VALLEY.slope(x)).all()


def test_on_a_symmetric_valley_both_sides_take_equally_long():
    valley = Valley(sharp=1.0, flat=1.0)
    for rule in ("sgd", "ideal_sam", "noisy_sam"):
        left = expected_steps(valley, rule, -1.0, 1.0, 0.05, RHO, 100)
        right = expected_steps(valley, rule, 1.0, 1.0, 0.05, RHO, 100)
        assert left == pytest.approx(right, rel=1e-9)


def test_two_steps_by_hand():
    # E min(tau, 2) = 1 + P(the first step does not cross) = 1 + Phi(-(|x| - lr |f'|) / (lr sigma)) flipped.
    x, sigma = -0.05, 2.0
    stays = 0.5 * math.erfc(-(0.05 + LR * float(VALLEY.slope(x))) / (LR * sigma) / math.sqrt(2))
    assert expected_steps(VALLEY, "sgd", x, sigma, LR, RHO, 2) == pytest.approx(1 + stays, rel=1e-9)


def test_finer_cells_change_little():
    for rule in ("sgd", "ideal_sam", "noisy_sam"):
        coarse = expected_steps(VALLEY, rule, -1.5, 5.0, LR, RHO, 400)
        fine = expected_steps(VALLEY, rule, -1.5, 5.0, LR, RHO, 400, cells_per_step=15)
        assert coarse == pytest.approx(fine, rel=2e-3)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["sgd", "ideal_sam", "noisy_sam"]), st.floats(-2, 2), st.floats(0.5, 8))
def test_simulation_agrees_with_quadrature(rule, start, sigma):
    if abs(start) < 0.1:
        start = 0.5
    noise = np.random.default_rng(6).standard_normal((200, 2000)) * sigma
    steps = walk(VALLEY, rule, start, noise, LR, RHO).first_crossing()
    exact = expected_steps(VALLEY, rule, start, sigma, LR, RHO, 200)
    # .3 %: the quadrature's own error.
    assert abs(steps.mean() - exact) < 4.5 * steps.std() / math.sqrt(2000) + 0.003 * exact


@pytest.fixture(scope="module")
def table():
    return measure(300, seed=4)[0]


def test_the_table_is_consistent_with_theory(table):
    known = table[table.steps_exact.notna()]
    error = (known.steps - known.steps_exact) / ((known.steps_high - known.steps) / 1.97)
    assert len(known) == 36
    assert error.abs().max() < 4.5
    noisy = table[table.rule == "noisy_sam"]
    assert (noisy.wrong_sign - noisy.wrong_sign_expected).abs().max() < 0.02
    assert (table[table.rule == "ideal_sam"].wrong_sign == 0).all()
    assert (table[table.rule == "sgd"].saved == 0).all()


def test_ideal_sam_is_faster_and_noise_spoils_it():
    for scenario in SCENARIOS:
        sigma = scenario.sigma(0.1)
        sgd, ideal, noisy = (
            expected_steps(VALLEY, rule, scenario.start, sigma, LR, RHO, scenario.horizon)
            for rule in ("sgd", "ideal_sam", "noisy_sam")
        )
        assert ideal < 0.8 * sgd
        assert noisy > ideal + 0.5 * (sgd - ideal)


def test_the_text_says_what_the_table_says(table):
    text = describe(table)
    chosen = (table.scenario == "minimising") & (table.snr == 0.1) & (table.rule == "ideal_sam")
    row = table[chosen].iloc[0]
    assert f"faster than SGD by {row.saved:.1f} steps" in " ".join(text.split())
    assert "Holds: ideal SAM is faster" in text
    turned = table.copy()
    turned.loc[turned.rule == "ideal_sam", ["saved_low", "saved_high"]] = (-2.0, -1.0)
    assert "Does not hold: ideal SAM is faster" in describe(turned)
    turned.loc[turned.rule == "ideal_sam", ["saved_low", "saved_high"]] = (-2.0, 1.0)
    assert "not told apart from SGD" in " ".join(describe(turned).split())


def test_it_writes_whole_files_and_the_same_bytes_twice(tmp_path):
    first = DEMOS["asymmetric-valley"].run(tmp_path / "one")
    DEMOS["asymmetric-valley"].run(tmp_path / "two")
    names = {"asymmetric-valley.csv", "asymmetric-valley.png", "asymmetric-valley.txt"}
    for folder in ("one", "two"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert first.text == (tmp_path / "one" / "asymmetric-valley.txt").read_text()
    assert first.figures[0].read_bytes().startswith(b"\x89PNG")


def test_figures_leave_matplotlib_as_it_was(tmp_path):
    import sys

    import matplotlib as mpl

    before = dict(mpl.rcParams)
    loaded = "matplotlib.pyplot" in sys.modules
    DEMOS["adversarial-model"].run(tmp_path)
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_the_demonstrations_are_listed_by_their_own_names():
    assert list(DEMOS) == ["asymmetric-valley", "adversarial-model"]
    assert all(demo.name == name and demo.summary for name, demo in DEMOS.items())
