"""Functionals with a kink at 0: an atom there is seen, a smooth density is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_flat_spectra import Matrix, _flat, _rotated, _semicircle
from torch import Tensor

from sharpbench.sharpness import spectrum
from sharpbench.sharpness.probed import ProbedSpectrum


def _network_like(d: int = 500) -> Tensor:
    """Half of the eigenvalues nearly 0, a bulk of both signs, five outliers."""
    generator = np.random.default_rng(0)
    values = np.where(generator.random(d) < 0.5, 1e-4, 1e-1) * generator.laplace(size=d)
    return _rotated(torch.tensor(np.concatenate([values[:-5], [20.0, 12.0, 9.0, 6.0, 4.0]])))


MATRICES = {"semicircle": _semicircle(), "flat": _flat(), "network": _network_like()}


def _truth(matrix: Tensor, damping: float) -> float:
    return float(np.log1p(np.abs(torch.linalg.eigvalsh(matrix).numpy()) / damping).sum())


@pytest.mark.parametrize(
    ("name", "low", "high"), [("semicircle", 0, 0.2), ("flat", 0, 0.2), ("network", 0.8, 1)]
)
def test_an_atom_at_zero_shows_in_the_weights(name: str, low: float, high: float) -> None:
    found = [spectrum(Matrix(MATRICES[name]), hvps=100, seed=seed) for seed in range(5)]
    atoms = [each.quadrature.atom() for each in found if isinstance(each, ProbedSpectrum)]
    assert low <= np.median(atoms) <= high


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("budget", [30, 50, 100])
def test_intervals_hold_at_small_budgets_too(name: str, budget: int) -> None:
    matrix = MATRICES[name]
    truth = _truth(matrix, 0.05)
    found = [spectrum(Matrix(matrix), hvps=budget, seed=seed).log_determinant(0.05) for seed in range(20)]
    # 20 intervals at 95 %: fewer than 16 hits has a probability below 0.3 %.
    assert sum(each.contains(truth) for each in found) >= 16


@pytest.mark.parametrize(("name", "most"), [("semicircle", 1.2), ("flat", 1.2), ("network", 0.8)])
def test_the_better_of_two_rules_is_trusted(name: str, most: float) -> None:
    """Against the mean of both, which is right for smooth densities and smears an atom."""
    matrix = MATRICES[name]
    truth = _truth(matrix, 0.002)

    def f(values: np.ndarray) -> np.ndarray:
        return np.log1p(np.abs(values) / 0.002)

    ours, mean = [], []
    for seed in range(12):
        found = spectrum(Matrix(matrix), hvps=100, seed=seed)
        assert isinstance(found, ProbedSpectrum)
        rules = [found.quadrature, found.quadrature.shorter]
        ours.append(found.log_determinant(0.002).value - truth)
        mean.append(np.mean([rule._fit(f, found.moments)[0] for rule in rules if rule is not None]) - truth)
    assert np.square(ours).mean() ** 0.5 <= most * np.square(mean).mean() ** 0.5
