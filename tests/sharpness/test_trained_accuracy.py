"""On a trained network: values against the exact spectrum, within their own intervals, at few products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import (
    AVERAGE_DIRECTION,
    FROBENIUS,
    TRACE,
    at_radius,
    average_case_sharpness,
    determinant_measure,
    log_det_measure,
    of_hessian,
    power_sum_measure,
    sam_sharpness,
    scale_invariant,
    spectrum,
    worst_case_sharpness,
)

SEEDS = range(20)


def _pairs(result: Any, exact: Any) -> list[tuple[str, Any, float]]:
    rows = [
        ("trace", result.trace(), exact.trace()),
        ("frobenius_norm", result.frobenius_norm(), exact.frobenius_norm()),
        ("log_determinant", result.log_determinant(), exact.log_determinant()),
        ("relative", result.log_determinant(relative=True), exact.log_determinant(relative=True)),
    ]
    tops = zip(result.top_eigenvalues(), exact.top_eigenvalues(), strict=True)
    rows += [(found.name, found, true) for found, true in tops]
    return [(name, found, true.value) for name, found, true in rows]


def test_intervals_cover_the_exact_spectrum(trained: Any) -> None:
    covered: dict[str, list[bool]] = {}
    errors: dict[str, list[float]] = {}
    for seed in SEEDS:
        for name, found, truth in _pairs(spectrum(trained.surface, hvps=75, seed=seed), trained.exact):
            covered.setdefault(name, []).append(found.contains(truth))
            errors.setdefault(name, []).append(abs(found.value / truth - 1))
    # 20 intervals at 95 %: fewer than 16 hits has a probability below 0.3 %.
    assert {name: sum(hits) for name, hits in covered.items() if sum(hits) < 16} == {}
    medians = {name: float(np.median(values)) for name, values in errors.items()}
    assert max(medians[name] for name in medians if name not in ("log_determinant", "relative")) < 0.01
    assert medians["log_determinant"] < 0.08


def test_log_determinant_within_two_percent_at_200_products(trained: Any) -> None:
    truth = trained.exact.log_determinant().value
    errors = [
        abs(spectrum(trained.surface, hvps=200, seed=s).log_determinant().value / truth - 1) for s in range(9)
    ]
    assert np.median(errors) < 0.02


@pytest.mark.parametrize("name", ["trace", "frobenius", "log_det_small", "log_det_unit", "cubes"])
def test_phi_psi_mu_rows_cover_their_functional(trained: Any, name: str) -> None:
    values = trained.eigenvalues
    measure, truth = {
        "trace": (TRACE, values.sum()),
        "frobenius": (FROBENIUS, (values**2).sum()),
        "log_det_small": (log_det_measure(0.1), np.log1p(0.01 * values).sum()),
        "log_det_unit": (log_det_measure(1.0), np.log1p(values).sum()),
        "cubes": (power_sum_measure(3), (values**3).sum()),
    }[name]
    found = [of_hessian(trained.surface, measure, n=64, seed=seed) for seed in SEEDS]
    assert sum(estimate.contains(truth) for estimate in found) >= 16
    assert np.median([abs(estimate.value / truth - 1) for estimate in found]) < 0.03


@pytest.mark.parametrize("name", ["trace", "frobenius", "log_det"])
def test_loss_values_at_a_small_radius_agree_with_the_hessian_of_a_smooth_network(
    smooth: Any, name: str
) -> None:
    values = smooth.eigenvalues
    measure, truth, scale = {
        "trace": (TRACE, values.sum(), 1.0),
        "frobenius": (FROBENIUS, (values**2).sum(), 1.0),
        "log_det": (log_det_measure(0.1), np.log1p(0.01 * values).sum(), 0.1),
    }[name]
    basis = spectrum(smooth.surface, hvps=60).basis  # type: ignore[attr-defined]
    rho = 0.05 / (scale * smooth.surface.dimension**0.5)
    found = [at_radius(smooth.surface, measure, rho, 24, seed=s, basis=basis) for s in SEEDS]
    assert sum(estimate.contains(truth) for estimate in found) >= 16
    plain = [at_radius(smooth.surface, measure, rho, 24, seed=s) for s in SEEDS]
    # The Krylov control variate must earn its place.
    assert np.std([e.value for e in found]) < 0.5 * np.std([e.value for e in plain])


def test_other_laws_are_sampled_as_they_are(trained: Any) -> None:
    truth = trained.eigenvalues.sum() / (2 * trained.surface.dimension)
    assert of_hessian(trained.surface, AVERAGE_DIRECTION, n=64, seed=1).contains(truth)
    x = trained.surface.point().double().numpy()
    scaled = float((np.diag(trained.surface.dense_hessian().numpy()) * x * x).sum())
    assert of_hessian(trained.surface, scale_invariant(TRACE), n=128, seed=1).contains(scaled)


def test_an_infinite_log_determinant_says_so(trained: Any) -> None:
    estimate = of_hessian(trained.surface, log_det_measure(30.0), n=32)
    assert np.isnan(estimate.value)
    assert not estimate.converged
    assert "infinite" in estimate.note


def test_refusals(trained: Any) -> None:
    with pytest.raises(InvalidInput, match="log det"):
        of_hessian(trained.surface, determinant_measure())
    with pytest.raises(InvalidInput, match="rho must be > 0"):
        at_radius(trained.surface, TRACE, rho=0.0)
    with pytest.raises(InvalidInput, match="n must be >= 8"):
        of_hessian(trained.surface, TRACE, n=2)
    with pytest.raises(InvalidInput, match="rho must be > 0"):
        sam_sharpness(trained.surface, -1.0)


def test_a_seed_decides_everything_and_the_global_generator_nothing(trained: Any) -> None:
    torch.manual_seed(1)
    first = spectrum(trained.surface, hvps=30, seed=3).trace()
    torch.manual_seed(2)
    assert spectrum(trained.surface, hvps=30, seed=3).trace() == first
    assert spectrum(trained.surface, hvps=30, seed=4).trace() != first


def test_tolerance_stops_early_and_is_met(trained: Any) -> None:
    result = spectrum(trained.surface, hvps=400, tolerance=0.02)
    assert result.hvps < 400
    assert result.trace().converged
    assert result.frobenius_norm().converged
    assert abs(result.trace().value / trained.eigenvalues.sum() - 1) < 0.04


def test_dense_below_is_exact(trained: Any) -> None:
    result = spectrum(trained.surface, hvps=20, dense_below=2000)
    # Both matrices come from products in float32; they need not be bitwise equal.
    assert result.trace().value == pytest.approx(trained.eigenvalues.sum(), rel=1e-5)
    assert result.trace().std_error == 0.0


def test_worst_case_is_at_least_sam_and_average_follows_the_trace(smooth: Any) -> None:
    rho = 0.05
    sam = sam_sharpness(smooth.surface, rho).value
    one_step = worst_case_sharpness(smooth.surface, rho, steps=1, restarts=1).value
    assert one_step == pytest.approx(sam, rel=1e-3)
    assert worst_case_sharpness(smooth.surface, rho, steps=10, restarts=2).value >= 0.999 * sam
    assert worst_case_sharpness(smooth.surface, rho / 10, norm="linf", adaptive=True).value > 0
    average = average_case_sharpness(smooth.surface, rho, n=64)
    assert average.contains(0.5 * rho**2 * smooth.eigenvalues.sum() / smooth.surface.dimension)
