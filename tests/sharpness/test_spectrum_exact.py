"""Matrices whose spectrum is known: the pass must find it, whatever its shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import FROBENIUS, KrylovBasis, LossSurface, at_radius, sam_sharpness, spectrum


class Quadratic(nn.Module):
    """Loss x^T A x / 2 + b^T x, so that the Hessian is A."""

    def __init__(self, matrix: Tensor, slope: Tensor | None = None) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(-1, 1, len(matrix), dtype=matrix.dtype))
        self.matrix = matrix
        self.slope = torch.zeros(len(matrix), dtype=matrix.dtype) if slope is None else slope

    def forward(self, _: Tensor) -> Tensor:
        return 0.5 * self.x @ (self.matrix @ self.x) + self.slope @ self.x


def quadratic(matrix: Tensor, slope: Tensor | None = None) -> LossSurface:
    return LossSurface(Quadratic(matrix, slope), lambda out, _: out, (torch.zeros(1), torch.zeros(1)))


def rotated(eigenvalues: list[float], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return ((q * torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T).to(dtype)


SPECTRA = {
    "indefinite": [5.0, 3.0, -4.0] + [0.01 * k for k in range(-60, 60)],
    "rank_one": [7.0] + [0.0] * 150,
    "repeated_outliers": [5.0, 5.0, 2.0] + [0.02 * math.sin(k) for k in range(150)],
    "three_copies": [5.0, 5.0, 5.0, 4.0] + [0.01 * math.sin(k) for k in range(200)],
    "few_distinct": [3.0] * 40 + [1.0] * 60 + [-2.0] * 50,
    "identity": [2.0] * 150,
    "zero": [0.0] * 150,
    "negative": [-(1.0 + 0.01 * k) for k in range(120)],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_intervals_hold_the_known_spectrum(name: str, dtype: torch.dtype) -> None:
    truth = np.sort(np.array(SPECTRA[name]))[::-1]
    # The centre of a 95 % interval may miss now and then, so errors are allowed in units of its width.
    result = spectrum(quadratic(rotated(SPECTRA[name], dtype=dtype)), hvps=60, seed=4)
    scale = np.abs(truth).max() + 1e-12
    checks = [
        (result.trace(), truth.sum()),
        (result.frobenius_squared(), (truth**2).sum()),
        (result.log_determinant(damping=0.5), np.log1p(np.abs(truth) / 0.5).sum()),
    ]
    for estimate, value in checks:
        assert abs(estimate.value - value) <= 1.5 * estimate.half_width + 1e-4 * scale, estimate.name
    for estimate, value in zip(result.top_eigenvalues(2), truth, strict=False):
        low, high = estimate.ci_low - 1e-4 * scale, estimate.ci_high + 1e-4 * scale
        assert low <= value <= high, estimate.name
    assert result.hvps <= 60


@pytest.mark.parametrize("name", ["rank_one", "identity", "zero", "few_distinct"])
def test_few_distinct_eigenvalues_are_solved_exactly(name: str) -> None:
    truth = np.array(SPECTRA[name])
    result = spectrum(quadratic(rotated(SPECTRA[name])), hvps=40, seed=1, eigenvalues=1)
    if name != "few_distinct":
        assert result.trace().value == pytest.approx(truth.sum(), abs=1e-8)
        assert result.frobenius_norm().value == pytest.approx(math.sqrt((truth**2).sum()), abs=1e-6)
        logdet = result.log_determinant(damping=0.1)
        assert logdet.value == pytest.approx(np.log1p(np.abs(truth) / 0.1).sum(), abs=1e-5)
    assert result.top_eigenvalues(1)[0].value == pytest.approx(truth.max(), abs=1e-9)
    assert result.bottom_eigenvalue().value == pytest.approx(truth.min(), abs=1e-9)


def test_both_copies_of_a_repeated_outlier_are_listed() -> None:
    result = spectrum(quadratic(rotated(SPECTRA["repeated_outliers"])), hvps=60, seed=2)
    assert [round(e.value, 4) for e in result.top_eigenvalues(3)] == [5.0, 5.0, 2.0]


def test_no_ghosts_after_many_steps_beyond_convergence() -> None:
    matrix = rotated([9.0, 6.0, 4.0] + [0.01 * math.cos(k) for k in range(300)], dtype=torch.float32)
    basis = KrylovBasis(quadratic(matrix), 60, torch.Generator().manual_seed(0))
    basis.grow(60)
    assert int((basis.ritz().values > 1.0).sum()) == 3
    rows = basis.rows.double()
    assert float((rows @ rows.T - torch.eye(60, dtype=torch.float64)).abs().max()) < 1e-5


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_a_budget_beyond_the_dimension_is_exact(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    eigenvalues = torch.randn(size, generator=generator, dtype=torch.float64).tolist()
    surface = quadratic(rotated(eigenvalues, seed))
    result = spectrum(surface, hvps=40)
    assert result.hvps == surface.hvps == size
    assert result.trace().value == pytest.approx(sum(eigenvalues), abs=1e-10)
    assert result.trace().std_error == 0.0
    ordered = sorted(eigenvalues, reverse=True)
    assert [e.value for e in result.top_eigenvalues(5)] == pytest.approx(ordered[:5], abs=1e-10)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), hvps=st.integers(6, 30))
def test_eigenvalue_intervals_hold_the_eigenvalue_of_their_rank(seed: int, hvps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(40, generator=generator, dtype=torch.float64).sort(descending=True).values
    result = spectrum(quadratic(rotated(truth.tolist(), seed)), hvps=hvps, seed=seed)
    found = result.top_eigenvalues(5)
    assert len(found) == 5
    for estimate, value in zip([*found, result.bottom_eigenvalue()], [*truth[:5], truth[-1]], strict=True):
        # By Cauchy's interlacing theorem this end holds in every case; the other one with high probability.
        inner = estimate.ci_high if estimate.name == "lambda_min" else estimate.ci_low
        assert (inner - float(value)) * (1 if estimate.name == "lambda_min" else -1) >= -1e-9
        assert np.isnan(estimate.value) or truth[-1] - 1e-9 <= estimate.value <= truth[0] + 1e-9
        assert not (np.isnan(estimate.value) and estimate.converged)


def test_log_determinant_conventions() -> None:
    eigenvalues = [2.0, 1.0, 0.5, -0.25]
    result = spectrum(quadratic(rotated(eigenvalues)), hvps=10)
    values = np.array(eigenvalues)
    assert result.log_determinant(0.1).value == pytest.approx(np.log1p(np.abs(values) / 0.1).sum())
    relative = result.log_determinant(0.1, relative=True)
    assert relative.value == pytest.approx(np.log1p(np.abs(values) / 0.2).sum())
    assert "lambda_max" in relative.note
    assert result.log_determinant(1.0, signed=True).value == pytest.approx(np.log1p(values).sum())
    with pytest.raises(InvalidInput, match="lambda_min > -delta"):
        result.log_determinant(0.1, signed=True)
    with pytest.raises(InvalidInput, match="damping must be > 0"):
        result.log_determinant(0.0)
    with pytest.raises(InvalidInput, match="lambda_max must be > 0"):
        spectrum(quadratic(torch.zeros(3, 3))).log_determinant(relative=True)


def test_density_is_a_density_and_sees_the_outlier() -> None:
    density = spectrum(quadratic(rotated(SPECTRA["rank_one"])), hvps=40).density(points=500)
    assert np.trapezoid(density["density"], density["eigenvalue"]) == pytest.approx(1.0, abs=1e-2)
    near = density[(density["eigenvalue"] - 7.0).abs() < 0.3]
    assert np.trapezoid(near["density"], near["eigenvalue"]) == pytest.approx(1 / 151, rel=0.1)
    assert (density["std_error"] >= 0).all()


def test_antithetic_frobenius_at_radius_ignores_the_gradient() -> None:
    eigenvalues = [3.0, 1.0, -2.0, 0.5, 0.5, 0.1]
    matrix, truth = rotated(eigenvalues), sum(v * v for v in eigenvalues)
    flat = at_radius(quadratic(matrix), FROBENIUS, rho=0.3, n=400, seed=5)
    steep = at_radius(
        quadratic(matrix, torch.full((6,), 50.0, dtype=torch.float64)), FROBENIUS, 0.3, 400, seed=5
    )
    assert steep.value == pytest.approx(flat.value, rel=1e-6)
    assert steep.contains(truth)
    repeats = [at_radius(quadratic(matrix), FROBENIUS, 0.3, 100, seed=s).value for s in range(40)]
    assert abs(np.mean(repeats) - truth) <= 4 * np.std(repeats) / math.sqrt(40)


def test_sam_sharpness_of_a_quadratic() -> None:
    surface = quadratic(torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)))
    g = torch.tensor([-4.0, 1.0], dtype=torch.float64)  # A x at x = (-1, 1)
    unit = g / g.norm()
    expected = 0.2 * float(g.norm()) + 0.5 * 0.04 * float(unit @ (torch.tensor([4.0, 1.0]).double() * unit))
    assert sam_sharpness(surface, 0.2).value == pytest.approx(expected, rel=1e-12)
    flat = quadratic(torch.zeros(2, 2, dtype=torch.float64))
    assert sam_sharpness(flat, 0.2).value == 0.0


@pytest.mark.parametrize(("hvps", "tolerance"), [(5, None), (50, 0.0), (50, -1.0)])
def test_spectrum_refuses_bad_budgets(hvps: int, tolerance: float | None) -> None:
    with pytest.raises(InvalidInput, match="must be"):
        spectrum(quadratic(torch.eye(3)), hvps=hvps, tolerance=tolerance)
