"""Spectra without outliers: the split of the budget, and a lambda_max that was not found."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpbench.sharpness import spectrum
from sharpbench.sharpness.krylov import KrylovBasis
from sharpbench.sharpness.probed import ProbedSpectrum
from sharpbench.sharpness.probes import fourth_moment, restricted, sign_products


class Matrix:
    """A known matrix behind products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.dimension, self.hvps = matrix, len(matrix), 0
        self.dtype, self.device = matrix.dtype, matrix.device

    def session(self) -> nullcontext[None]:
        return nullcontext()

    def hvp(self, vectors: Tensor) -> Tensor:
        self.hvps += 1 if vectors.ndim == 1 else vectors.shape[1]
        return self.matrix @ vectors


def _rotated(eigenvalues: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    d = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return (basis * eigenvalues) @ basis.T


def _flat(d: int = 400) -> Tensor:
    noise = torch.randn(d, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return _rotated(1 + 0.3 * noise)


def _semicircle(d: int = 400) -> Tensor:
    draw = torch.randn(d, d, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return (draw + draw.T) / (2 * d) ** 0.5


@pytest.mark.parametrize("budget", [30, 40, 50, 75, 100])
@pytest.mark.parametrize("matrix", [_flat(), _semicircle()], ids=["flat", "semicircle"])
def test_without_outliers_the_trace_is_as_good_as_hutchinsons(matrix: Tensor, budget: int) -> None:
    off_diagonal = matrix - torch.diag(matrix.diagonal())
    plain = float(off_diagonal.square().sum()) / budget
    ratios = []
    for seed in range(5):
        found = spectrum(Matrix(matrix), hvps=budget, seed=seed)
        assert isinstance(found, ProbedSpectrum)
        q = found.basis.rows
        rest = matrix - q.T @ (q @ matrix)
        rest = rest - (rest @ q.T) @ q
        # Probes are taken as ratios to |p|²: what they miss is the distance to a multiple of P.
        projector = torch.eye(len(matrix), dtype=torch.float64) - q.T @ q
        rest = rest - float(rest.trace()) / (len(matrix) - len(q)) * projector
        rest = rest - torch.diag(rest.diagonal())
        # The exact variance of a Rademacher probe of the complement, over the number of them.
        samples = len(found.probes) + found.probes_only  # with the chain's start
        ratios.append(float(rest.square().sum()) / samples / plain)
    # Up to 40 products the probes themselves say that there are no outliers.
    assert np.mean(ratios) ** 0.5 < (1.003 if budget <= 40 else 1.06)


@pytest.mark.parametrize("matrix", [_flat(), _semicircle()], ids=["flat", "semicircle"])
@pytest.mark.parametrize("budget", [20, 30, 40])
def test_few_products_go_to_the_probes_and_say_so(matrix: Tensor, budget: int) -> None:
    values = torch.linalg.eigvalsh(matrix)
    for seed in range(5):
        found = spectrum(Matrix(matrix), hvps=budget, seed=seed)
        assert isinstance(found, ProbedSpectrum)
        assert found.hvps == len(found.probes) + found.basis.size == budget
        top, bottom = found.top_eigenvalues(1)[0], found.bottom_eigenvalue()
        assert top.contains(float(values[-1]))
        assert bottom.contains(float(values[0]))
        assert not top.converged
        assert "eigenvalues=k" in top.note
        asked = spectrum(Matrix(matrix), hvps=budget, seed=seed, eigenvalues=1)
        assert asked.top_eigenvalues(1)[0].value > top.value
        nodes, weights, _ = found.weighted_nodes()
        assert weights @ nodes == pytest.approx(found.trace().value)
        assert weights @ nodes**2 == pytest.approx(found.frobenius_squared().value)


def test_outliers_are_found_with_few_products() -> None:
    values = torch.cat(
        [0.1 * torch.randn(395, dtype=torch.float64), torch.tensor([9.0, 7, 5, 4, 3]).double()]
    )
    found = [spectrum(Matrix(_rotated(values)), hvps=20, seed=s).top_eigenvalues(1)[0] for s in range(10)]
    # A start that happens to lie along the outliers makes them look like a bulk: one in forty stops early.
    assert sum(abs(each.value - 9.0) < 0.02 for each in found) >= 9
    assert all(each.contains(9.0) for each in found)


def test_products_from_before_the_basis_are_as_good_as_later_ones() -> None:
    matrix = _semicircle(60)
    basis = KrylovBasis(Matrix(matrix), 12, torch.Generator().manual_seed(0))
    signs, products = sign_products(basis, 5, torch.Generator().manual_seed(1))
    basis.grow(5)
    basis.restart()
    basis.grow(4)
    q = basis.rows
    rows = signs - (signs @ q.T) @ q
    images = rows @ matrix
    outside = images - (images @ q.T) @ q
    expected = torch.stack([(rows * rows).sum(1), (rows * images).sum(1), (outside * outside).sum(1)], dim=1)
    np.testing.assert_allclose(restricted(basis, signs, products).moments, expected.numpy(), rtol=1e-10)


def test_the_fourth_moment_of_products() -> None:
    matrix = _rotated(torch.cat([torch.full((90,), 0.5), torch.tensor([3.0] * 10)]).double())
    found = []
    for seed in range(200):
        basis = KrylovBasis(Matrix(matrix), 4, torch.Generator().manual_seed(seed))
        basis.grow(1)
        _, products = sign_products(basis, 6, torch.Generator().manual_seed(1000 + seed))
        found.append(fourth_moment(basis, products))
    fourth, second = np.mean(found, axis=0)
    assert fourth == pytest.approx(float(torch.linalg.matrix_power(matrix, 4).trace()), rel=0.1)
    assert second == pytest.approx(float(matrix.square().sum()), rel=0.02)


def test_a_relative_log_determinant_knows_that_lambda_max_was_not_found() -> None:
    matrix = _flat(600)
    eigenvalues = torch.linalg.eigvalsh(matrix).numpy()
    truth = float(np.log1p(np.abs(eigenvalues) / (0.01 * eigenvalues.max())).sum())
    hits = [
        spectrum(Matrix(matrix), hvps=75, seed=s).log_determinant(relative=True).contains(truth)
        for s in range(20)
    ]
    # 56 of 100 before lambda_max's own bound was in the interval.
    assert sum(hits) >= 16


def test_eigenvalues_that_were_asked_for_are_found_where_the_trace_alone_would_not_look() -> None:
    bulk = torch.linspace(0.0, 0.55, 800, dtype=torch.float64)
    outliers = torch.tensor([3.2, 2.6, 2.2, 2.1, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2], dtype=torch.float64)
    matrix = _rotated(torch.cat([bulk, outliers]))
    for seed in range(5):
        asked = spectrum(Matrix(matrix), hvps=40, seed=seed, eigenvalues=5).top_eigenvalues(1)[0]
        assert asked.value == pytest.approx(3.2, rel=1e-3)
        assert asked.contains(3.2)
    without = [spectrum(Matrix(matrix), hvps=40, seed=s).top_eigenvalues(1)[0].value for s in range(5)]
    assert min(without) < 3.1  # or asking would make no difference


def test_asking_for_eigenvalues_of_a_semicircle_leaves_the_probes_alone() -> None:
    for seed in range(3):
        found = spectrum(Matrix(_semicircle()), hvps=50, seed=seed, eigenvalues=5)
        assert isinstance(found, ProbedSpectrum)
        assert found.basis.size <= 6
