"""Functionals with a kink at 0: an atom there is seen, a smooth density is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from test_flat_spectra import Matrix, _flat, _rotated, _semicircle
from torch import Tensor

from sharpbench.sharpness import spectrum
from sharpbench.sharpness.probed import ProbedSpectrum
from sharpbench.sharpness.quadrature import ChainQuadrature
from sharpbench.sharpness.rules import Rule, ZeroCell


def _network_like(d: int = 500) -> Tensor:
    """Half of the eigenvalues nearly 0, a bulk of both signs, five outliers."""
    generator = np.random.default_rng(0)
    values = np.where(generator.random(d) < 0.5, 1e-4, 1e-1) * generator.laplace(size=d)
    return _rotated(torch.tensor(np.concatenate([values[:-5], [20.0, 12.0, 9.0, 6.0, 4.0]])))


MATRICES = {"semicircle": _semicircle(), "flat": _flat(), "network": _network_like()}


def _truth(matrix: Tensor, damping: float) -> float:
    return float(np.log1p(np.abs(torch.linalg.eigvalsh(matrix).numpy()) / damping).sum())


@pytest.mark.parametrize("exponent", [0.05, 0.2, 0.5, 1.0])
def test_the_exponent_of_a_power_law_is_recovered(exponent: float) -> None:
    """Gauss-Radau rules of the weight abs(x)^(b-1) on [-1, 1], by those of Jacobi's weight in x^2."""
    points, masses = special.roots_jacobi(25, 0, exponent / 2)
    squares = (1 + points) / 2
    masses = masses / 2 ** (exponent / 2 + 1) / squares
    sides = np.sqrt(squares)
    order = np.argsort(sides)
    sides, masses = sides[order], masses[order] / 2
    nodes = np.concatenate([-sides[::-1], [0.0], sides])
    weights = np.concatenate([masses[::-1], [2 / exponent - 2 * masses.sum()], masses])
    cell = ZeroCell.around(Rule(nodes, weights), 25)
    assert cell.exponent == pytest.approx(exponent, rel=0.02)
    assert abs(cell.trend) < 0.05
    # Quantiles of N(s) ~ s^b: the median of abs(x) within the cell.
    median = np.log(np.median(np.abs(cell.points())) / cell.right)
    assert median == pytest.approx(np.log(0.5) / exponent, rel=0.05)


def test_an_atom_at_zero_is_seen_as_one() -> None:
    found = spectrum(Matrix(_rotated(torch.cat([torch.zeros(400), torch.linspace(0.5, 1, 100)]).double())))
    assert isinstance(found, ProbedSpectrum)
    assert isinstance(found.quadrature, ChainQuadrature)
    assert np.median(np.abs(found.quadrature.cell.points())) < 1e-3


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("budget", [30, 50, 100])
def test_intervals_hold_at_small_budgets_too(name: str, budget: int) -> None:
    matrix = MATRICES[name]
    truth = _truth(matrix, 0.05)
    found = [spectrum(Matrix(matrix), hvps=budget, seed=seed).log_determinant(0.05) for seed in range(20)]
    # 20 intervals at 95 %: fewer than 16 hits has a probability below 0.3 %.
    assert sum(each.contains(truth) for each in found) >= 16


@pytest.mark.parametrize(("name", "most"), [("semicircle", 2.0), ("flat", 1.2), ("network", 0.8)])
def test_the_cell_around_zero_is_right_where_the_spectrum_condenses(name: str, most: float) -> None:
    """Against the mean over all rules that the chain's moments allow."""
    matrix = MATRICES[name]
    truth = _truth(matrix, 0.002)
    ours, mean = [], []
    for seed in range(12):
        found = spectrum(Matrix(matrix), hvps=100, seed=seed)
        ours.append(found.log_determinant(0.002).value - truth)
        mean.append(found.functional(lambda x: np.log1p(np.abs(x) / 0.002)).value - truth)
    assert np.square(ours).mean() ** 0.5 <= most * np.square(mean).mean() ** 0.5
