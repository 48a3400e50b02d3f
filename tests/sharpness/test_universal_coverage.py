"""Intervals of (phi, psi, mu) functionals on known spectra: they cover, or they say that they can't tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import fft
from torch import Tensor

from sharpbench.functionals import FROBENIUS, TRACE, Measure, log_det_measure, power_sum_measure
from sharpbench.laws import Gaussian, Rademacher, ScaleInvariant, Sphere, UniformCube
from sharpbench.sharpness import KrylovBasis, of_hessian

D, SEEDS = 800, 20


class Rotated:
    """A symmetric matrix with known eigenvalues, rotated by two cosine transforms with random signs."""

    def __init__(self, eigenvalues: np.ndarray) -> None:
        rng = np.random.default_rng(5)
        self.dimension, self.hvps = len(eigenvalues), 0
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.eigenvalues = rng.permutation(eigenvalues).astype(np.float32)
        self.signs = [rng.choice([-1.0, 1.0], self.dimension).astype(np.float32) for _ in range(2)]
        self.parameters = [torch.zeros(self.dimension)]

    def session(self) -> nullcontext[None]:
        return nullcontext()

    def hvp(self, vectors: Tensor) -> Tensor:
        self.hvps += 1 if vectors.ndim == 1 else vectors.shape[1]
        x = vectors.numpy().T
        for signs in self.signs:
            x = fft.dct(x * signs, norm="ortho")
        x = x * self.eigenvalues
        for signs in self.signs[::-1]:
            x = fft.idct(x, norm="ortho") * signs
        return torch.from_numpy(np.ascontiguousarray(x.T))


def _spectra() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    i = np.arange(1, D + 1)
    return {
        "one huge": np.r_[1e4, 0.1 * rng.random(D - 1)],
        "power law": 10.0 / i,
        "heavy": 1e-3 * np.exp(3 * rng.standard_normal(D)),
        "both signs": np.r_[
            np.arange(8, 0, -1.0), -np.arange(8, 0, -1.0), 0.02 * rng.standard_normal(D - 16)
        ],
        "bulk": 1.5 + rng.random(D),
        "low rank": np.r_[5.0, 4, 3, 2, 1, np.zeros(D - 5)],
    }


SPECTRA = _spectra()
MEASURES: dict[str, tuple[Measure, Callable[[np.ndarray], float]]] = {
    "trace": (TRACE, lambda e: float(e.sum())),
    "frobenius": (FROBENIUS, lambda e: float((e**2).sum())),
    "cubes": (power_sum_measure(3), lambda e: float((e**3).sum())),
    "log_det 0.1": (log_det_measure(0.1), lambda e: _log_det(0.01 * e)),
    "log_det 0.4": (log_det_measure(0.4), lambda e: _log_det(0.16 * e)),
    "log_det 1": (log_det_measure(1.0), lambda e: _log_det(e)),
}


def _log_det(values: np.ndarray) -> float:
    return float(np.log1p(values).sum()) if values.min() > -1 else -math.inf


@pytest.mark.parametrize("n", [8, 32])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_intervals_cover_or_say_that_they_cannot_tell(spectrum: str, n: int) -> None:
    values = SPECTRA[spectrum]
    operator = Rotated(values)
    for name, (measure, functional) in MEASURES.items():
        truth = functional(values)
        found = [of_hessian(operator, measure, n=n, seed=seed) for seed in range(SEEDS)]  # type: ignore[arg-type]
        if math.isinf(truth):  # a value that does not exist is never given with a finite interval
            assert not any(e.converged for e in found), name
            assert all(math.isnan(e.value) or e.ci_low == -math.inf for e in found), name
            assert all("infinite" in e.note for e in found), name
            continue
        assert sum(e.contains(truth) for e in found) >= 0.9 * SEEDS, name
        assert all(math.isfinite(e.ci_high) for e in found), name


def test_intervals_are_not_wide_for_nothing() -> None:
    bulk, heavy, huge = (Rotated(SPECTRA[name]) for name in ("bulk", "heavy", "one huge"))
    for measure, _ in MEASURES.values():
        assert of_hessian(bulk, measure, n=64).converged  # type: ignore[arg-type]
        assert of_hessian(huge, measure, n=64).converged  # type: ignore[arg-type]
    truth = float((SPECTRA["heavy"] ** 2).sum())
    assert of_hessian(heavy, FROBENIUS, n=64).half_width < 0.1 * truth  # type: ignore[arg-type]


def test_an_eigenvalue_that_nobody_saw_makes_the_interval_unbounded() -> None:
    # One of 800 directions with lambda = -1.2 beside a bulk of the same size: no probe stands out.
    values = np.r_[-1.2, np.linspace(-0.9, 1.5, D - 1)]
    found = [of_hessian(Rotated(values), log_det_measure(1.0), n=8, seed=s) for s in range(10)]  # type: ignore[arg-type]
    for estimate in found:
        assert not estimate.converged
        assert math.isnan(estimate.value) or estimate.ci_low == -math.inf
    assert any("not excluded" in estimate.note for estimate in found)


LAWS = {
    "sphere": (Sphere("sqrt_d"), TRACE, lambda e: e.sum()),
    "sphere, frobenius": (
        Sphere(2.0), FROBENIUS,
        lambda e: 0.5 * 16 * ((e.sum() ** 2 + 2 * (e**2).sum()) / (D * (D + 2)) - (e.sum() / D) ** 2),
    ),
    "rademacher": (Rademacher(), TRACE, lambda e: e.sum()),
    "cube": (UniformCube(0.5), TRACE, lambda e: e.sum() / 12),
    "scaled gaussian": (Gaussian(0.3), FROBENIUS, lambda e: 0.3**4 * (e**2).sum()),
}  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
def test_other_laws(law: str) -> None:
    mu, base, functional = LAWS[law]
    measure = Measure("custom", base.psi, base.phi, mu)
    for name in ("heavy", "both signs", "bulk"):
        truth = float(functional(SPECTRA[name]))
        found = [of_hessian(Rotated(SPECTRA[name]), measure, n=16, seed=s) for s in range(20)]  # type: ignore[arg-type]
        assert sum(e.contains(truth) for e in found) >= 18, name


def test_rademacher_variances_are_those_of_the_off_diagonal_part() -> None:
    operator = Rotated(SPECTRA["power law"])
    dense = operator.hvp(torch.eye(D)).double()
    truth = float(dense.square().sum() - dense.diag().square().sum())
    measure = Measure("offdiagonal", FROBENIUS.psi, FROBENIUS.phi, Rademacher())
    found = [of_hessian(operator, measure, n=16, seed=s) for s in range(20)]  # type: ignore[arg-type]
    assert sum(e.contains(truth) for e in found) >= 18


def test_a_scale_invariant_law_is_the_gaussian_one_of_the_rescaled_hessian() -> None:
    operator = Rotated(SPECTRA["power law"])
    x = torch.linspace(-1, 2, D)
    operator.parameters = [x]
    dense = operator.hvp(torch.eye(D)).double()
    scaled = torch.linalg.eigvalsh(x[:, None].double() * dense * x.double()).numpy()
    for name, (base, functional) in MEASURES.items():
        measure = Measure(name, base.psi, base.phi, ScaleInvariant(base.mu), base.estimator)
        found = [of_hessian(operator, measure, n=16, seed=s) for s in range(10)]  # type: ignore[arg-type]
        assert sum(e.contains(functional(scaled)) for e in found) >= 9, name


CUSTOM = {
    "mean square": (lambda t: t**2, lambda m: m, lambda e: e.sum() ** 2 / 4 + (e**2).sum() / 2),
    "a determinant": (
        lambda t: 3 * torch.exp(-0.02 * t),
        lambda m: m**-2,
        lambda e: math.exp(_log_det(0.02 * e)) / 9,
    ),
    "ratio": (lambda t: (t, t**2), lambda m: m[1] / m[0] ** 2, lambda e: 1 + 2 * (e**2).sum() / e.sum() ** 2),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_measures_with_a_closed_form(name: str) -> None:
    psi, phi, functional = CUSTOM[name]
    measure = Measure(name, psi, phi, Gaussian())  # type: ignore[arg-type]
    for spectrum in ("heavy", "bulk"):
        found = [of_hessian(Rotated(SPECTRA[spectrum]), measure, n=16, seed=s) for s in range(20)]  # type: ignore[arg-type]
        assert sum(e.contains(float(functional(SPECTRA[spectrum]))) for e in found) >= 18, spectrum


def test_a_measure_without_a_closed_form() -> None:
    measure = Measure("mean size", lambda t: t.abs(), lambda m: m, Gaussian())
    for spectrum in ("both signs", "one huge"):
        values = SPECTRA[spectrum]
        draws = np.random.default_rng(1).standard_normal((5000, D)) ** 2 @ values / 2
        truth = float(np.abs(draws).mean()) if values.min() < 0 else float(values.sum()) / 2
        found = [of_hessian(Rotated(values), measure, n=16, seed=s) for s in range(10)]  # type: ignore[arg-type]
        assert sum(e.contains(truth) for e in found) >= 9, spectrum


def test_a_given_basis_takes_no_products_of_its_own() -> None:
    values = SPECTRA["heavy"]
    operator = Rotated(values)
    basis = KrylovBasis(operator, 20, torch.Generator().manual_seed(3))
    basis.grow(20)
    for name, (measure, functional) in MEASURES.items():
        found = [of_hessian(operator, measure, n=12, seed=s, basis=basis) for s in range(SEEDS)]  # type: ignore[arg-type]
        assert all(e.hvps == 12 for e in found), name
        assert sum(e.contains(functional(values)) for e in found) >= 0.9 * SEEDS, name


def test_up_to_n_dimensions_every_functional_is_exact() -> None:
    values = np.linspace(-0.5, 3.0, 11)
    for measure, functional in MEASURES.values():
        found = of_hessian(Rotated(values), measure, n=12)  # type: ignore[arg-type]
        assert found.value == pytest.approx(functional(values), rel=1e-5)
        assert found.converged


def test_a_psi_that_is_clipped_is_not_taken_for_the_one_it_resembles() -> None:
    clipped = Measure("clipped", lambda t: t.clamp(max=50.0), lambda m: m, Gaussian())
    values = SPECTRA["one huge"]
    assert of_hessian(Rotated(values), clipped, n=16).value < 51  # type: ignore[arg-type]
