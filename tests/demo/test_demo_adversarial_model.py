"""The adversarial-model demonstration: its design, its rules against the optimizers, its numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharpbench.demo import DEMOS
from sharpbench.demo.adversarial_model import COVARIANCES, describe, exact_shares, measure
from sharpbench.demo.noise_design import NoiseDesign, Standardised, directions, standardised_runs
from sharpbench.errors import InvalidInput
from sharpbench.optim import build


@given(st.floats(1e-3, 1e3), st.tuples(*[st.floats(0.01, 10)] * 3))
def test_the_design_has_the_snr_it_says(snr, shape):
    design = NoiseDesign("any", shape, snr)
    assert design.mean @ design.mean / design.variances.sum() == pytest.approx(snr, rel=1e-12)
    np.testing.assert_allclose(design.variances / design.variances[0], np.array(shape) / shape[0], rtol=1e-12)


def test_the_published_design():
    design = NoiseDesign("published", COVARIANCES["published"], 0.1)
    # a = .0405 / (.1 * 3.2)
    np.testing.assert_allclose(design.variances, 0.1265625 * np.array([0.2, 2, 1]), rtol=1e-12)


@pytest.mark.parametrize("snr", [0.0, -1.0, math.nan])
def test_an_impossible_snr_is_refused(snr):
    with pytest.raises(InvalidInput, match="snr must be > 0"):
        NoiseDesign("any", (1, 1, 1), snr)


def test_an_impossible_covariance_is_refused():
    with pytest.raises(InvalidInput, match="covariance must be > 0"):
        NoiseDesign("any", (1, 0, 1), 0.1)


def test_a_run_needs_two_gradients():
    with pytest.raises(InvalidInput, match="steps must be >= 2"):
        standardised_runs(10, 1, 0.05, 0)


def perturbations(name, gradients, **parameters):
    """e at every step of a real optimizer that is handed these gradients at x = 0."""
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    base = torch.optim.SGD([("weight", weight)], lr=0.0)
    optimizer = build(name, base, rho=1.0, **parameters)
    seen = []
    for gradient in gradients:
        target = torch.from_numpy(gradient)

        def closure(target=target):
            seen.append(weight.detach().clone().numpy())
            weight.grad = target.clone()
            return (weight * target).sum().detach()

        optimizer.step(closure)
    return np.array(seen[1::2])


@pytest.mark.parametrize(
    ("rule", "name", "parameters"),
    [
        ("sam", "sam", {}),
        ("sam", "asam", {}),
        ("l1", "l1", {}),
        ("infosam_estimated", "infosam", {"alpha": 0.05, "floor": 0.1}),
    ],
)
def test_the_directions_are_those_of_the_optimizers(rule, name, parameters):
    design = NoiseDesign("published", COVARIANCES["published"], 0.1)
    draws = np.random.default_rng(7).standard_normal((30, 3))
    gradients = design.mean + np.sqrt(design.variances) * draws
    mean = draws[0].copy()
    for draw in draws[1:-1]:
        mean += 0.05 * (draw - mean)
    runs = Standardised(draws[-1:], mean[None], np.ones((1, 3)))
    expected = perturbations(name, gradients, **parameters)[-1]
    ours = directions(design, runs)[rule][0]
    # ASAM's |x| + eta is eta everywhere, so e is shorter but points the same way.
    np.testing.assert_allclose(ours, expected / np.linalg.norm(expected), rtol=1e-10, atol=1e-12)


def test_a_standardised_run_is_a_run_of_gradients():
    draws = np.random.default_rng(5)
    sequence = np.stack([draws.standard_normal((4, 3)) for _ in range(6)])
    mean, square = sequence[0].copy(), None
    for z in sequence[1:]:
        deviation = (mean - z) ** 2
        square = deviation if square is None else 0.7 * square + 0.3 * deviation
        before, mean = mean, 0.7 * mean + 0.3 * z
    runs = standardised_runs(4, 6, 0.3, seed=5)
    np.testing.assert_allclose(runs.last, sequence[-1])
    np.testing.assert_allclose(runs.mean, before, rtol=1e-12)
    np.testing.assert_allclose(runs.square, square, rtol=1e-12)


def test_infosam_with_equal_variances_is_sam():
    design = NoiseDesign("isotropic", (1, 1, 1), 0.1)
    found = directions(design, standardised_runs(100, 3, 0.05, 0))
    np.testing.assert_allclose(found["infosam"], found["sam"], atol=1e-12)


def test_every_direction_has_length_one():
    found = directions(NoiseDesign("any", (0.2, 2, 1), 0.1), standardised_runs(500, 20, 0.05, 1))
    for vectors in found.values():
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-12)


@pytest.fixture(scope="module")
def table():
    return measure(20_000, seed=11)


def test_sampled_shares_agree_with_the_exact_ones(table):
    known = table[table.axis_exact.notna()]
    assert set(known.rule) == {"sam", "infosam", "l1"}
    for kind in ("axis", "signed"):
        exact = known[f"{kind}_exact"]
        error = (known[f"{kind}_share"] - exact) / np.sqrt(exact * (1 - exact) / known.directions)
        # 30 comparisons, correlated: 4 standard errors each.
        assert error.abs().max() < 4
        assert (known[f"{kind}_low"] <= known[f"{kind}_share"]).all()
        assert (known[f"{kind}_high"] >= known[f"{kind}_share"]).all()


def test_infosam_gathers_where_sam_scatters_and_the_order_turns_with_the_noise():
    published = NoiseDesign("published", COVARIANCES["published"], 0.1)
    swapped = NoiseDesign("swapped", COVARIANCES["swapped"], 0.1)
    assert sum(exact_shares(published, "infosam")) > 25 * sum(exact_shares(published, "sam"))
    assert sum(exact_shares(swapped, "sam")) > 10 * sum(exact_shares(swapped, "infosam"))


def test_the_text_says_what_the_table_says(table):
    text = describe(table)
    row = table[(table.covariance == "published") & (table.snr == 0.1) & (table.rule == "infosam")].iloc[0]
    assert f"{100 * row.axis_share:.1f} %" in text
    assert "Holds: InfoSAM" in text
    turned = table.copy()
    turned.loc[turned.rule == "infosam", ["axis_low", "axis_high"]] = (0.0, 0.001)
    assert "Does not hold: InfoSAM" in describe(turned)


def test_it_writes_whole_files_and_the_same_bytes_twice(tmp_path):
    first = DEMOS["adversarial-model"].run(tmp_path / "new" / "folder")
    DEMOS["adversarial-model"].run(tmp_path / "again")
    names = {"adversarial-model.csv", "adversarial-model.png", "adversarial-model.txt"}
    for folder in (tmp_path / "new" / "folder", tmp_path / "again"):
        assert {path.name for path in folder.iterdir()} == names
    for name in names:
        assert (tmp_path / "new" / "folder" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert first.figures == [tmp_path / "new" / "folder" / "adversarial-model.png"]
    assert len(first.table) == 50


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidInput, match="can't create the output folder"):
        DEMOS["adversarial-model"].run(tmp_path / "taken")
