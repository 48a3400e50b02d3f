"""The two-stage pass: a Krylov basis, random probes of its complement, and what both say together."""

from __future__ import annotations

import numpy as np
import torch

from ..errors import must_be
from .estimate import Array, Estimate, t_quantile
from .krylov import KrylovBasis
from .quadrature import ChainQuadrature
from .spectrum import SpectralFunction, Spectrum
from .surface import LossSurface

KRYLOV_SHARE = 0.7
# Fewer steps than this share of the budget give neither five eigenvalues nor a quadrature worth its name.
LEAST_SHARE = 0.45
PROBE_ROUND = 10


class ProbedSpectrum(Spectrum):
    """A Krylov basis Q with ``M = Q^T H Q`` and ``R = (I - QQ^T) H Q``, and probes ``p_j = P z_j``.

    With ``P = I - QQ^T``, z Rademacher, m vectors in Q:

        tr H     = tr M + E p^T H p
        ||H||_F² = ||M||_F² + 2 ||R||_F² + E ||P H p||²

    Both are unbiased given Q (Hutch++, Meyer et al. 2021, with Lanczos instead of a random sketch; the
    second splits H into its four blocks, three of which are known exactly). The means over probes are
    taken as ratios to ``||p||²``, whose mean d - m is known: exact when H is a multiple of I.
    """

    def __init__(self, basis: KrylovBasis, chain: int, probes: Array, sentinel: float, hvps: int) -> None:
        self.dimension = basis.surface.dimension
        self.basis = basis
        self.ritz = basis.ritz()
        self.probes = probes
        self.hvps = hvps
        self.tolerance: float | None = None
        columns, gram = basis.coupling()
        self.inside = np.array([np.trace(basis.projected), (basis.projected**2).sum() + 2 * np.trace(gram)])
        self.moments, self.covariance = self._moments()
        self.quadrature = ChainQuadrature.of_chain(basis, chain, self.ritz, sentinel)

    def _moments(self) -> tuple[Array, Array]:
        """``(tr H, ||H||_F^2)`` and the covariance of both, by jackknife over the probes."""
        rest = self.dimension - self.basis.size
        n = len(self.probes)
        if rest == 0 or n == 0:
            return self.inside, np.zeros((2, 2))
        total = self.probes.sum(0)
        full = rest * total[1:] / total[0]
        without = total[None, :] - self.probes
        leave_one_out = rest * without[:, 1:] / without[:, :1] if n > 1 else full[None, :]
        spread = leave_one_out - leave_one_out.mean(0)
        return self.inside + full, (n - 1) / n * spread.T @ spread

    def _from_moment(self, index: int, name: str) -> Estimate:
        exact = self.basis.complete
        return Estimate.from_error(
            name,
            float(self.moments[index]),
            float(np.sqrt(self.covariance[index, index])),
            np.inf if exact else len(self.probes) - 1,
            hvps=self.hvps,
            tolerance=self.tolerance,
            note="" if exact else f"{self.basis.size} Krylov vectors, {len(self.probes)} probes",
        )

    def trace(self) -> Estimate:
        """``tr M`` plus the mean of ``p^T H p``."""
        return self._from_moment(0, "trace")

    def frobenius_squared(self) -> Estimate:
        """``||M||² + 2||R||²`` plus the mean of ``||P H p||²``."""
        return self._from_moment(1, "frobenius_squared")

    def _eigenvalue(self, index: int, name: str) -> Estimate:
        value, bound = float(self.ritz.values[index]), float(self.ritz.residuals[index])
        limit = (self.tolerance or 0.05) * abs(value)
        note = "" if bound <= limit else "Ritz value not converged: interval is its residual bound"
        # Not a standard deviation: the half width of a guaranteed interval, on the same scale.
        return Estimate(
            name,
            value,
            bound / t_quantile(1e9),
            value - bound,
            value + bound,
            self.hvps,
            bound <= limit,
            note,
        )

    def top_eigenvalues(self, k: int = 5) -> list[Estimate]:
        """The k largest Ritz values; each interval is the residual bound, which holds an eigenvalue."""
        if k < 1:
            raise must_be("k", ">= 1", k)
        return [self._eigenvalue(i, f"lambda_{i + 1}") for i in range(min(k, self.basis.size))]

    def bottom_eigenvalue(self) -> Estimate:
        """The smallest Ritz value, with its residual bound."""
        return self._eigenvalue(self.basis.size - 1, "lambda_min")

    def functional(self, f: SpectralFunction, name: str = "functional") -> Estimate:
        """``tr f(H)`` by :class:`~sharpbench.sharpness.quadrature.ChainQuadrature`."""
        if self.basis.complete:
            return Estimate.exact(name, float(np.sum(f(self.ritz.values))), hvps=self.hvps)
        value, error, bias = self.quadrature.estimate(f, self.moments, self.covariance)
        degrees = max(len(self.probes) - 1, 1)
        return Estimate.from_error(
            name, value, error, degrees, bias=bias, hvps=self.hvps, tolerance=self.tolerance
        )

    def weighted_nodes(self) -> tuple[Array, Array, Array]:
        """Known eigenvalues once each, then the quadrature's nodes carrying the remaining dimension."""
        if self.basis.complete:
            ones = np.ones(self.dimension)
            return self.ritz.values, ones, ones
        return self.quadrature.weighted_nodes()


def measure_two_stage(
    surface: LossSurface, hvps: int, generator: torch.Generator, tolerance: float | None
) -> Spectrum:
    """Krylov stage, a sentinel chain, then probes: at most ``hvps`` products."""
    before = surface.hvps
    most = max(4, int(KRYLOV_SHARE * hvps))
    guard = max(1, min(6, hvps // 12))
    basis = KrylovBasis(surface, most, generator)
    with surface.session():
        _grow_while_it_pays(basis, most - guard, hvps, tolerance)
        chain = basis.starts[1] if len(basis.starts) > 1 else basis.size
        sentinel = _sentinel(basis, guard, most)
        left = hvps - (surface.hvps - before)
        probes = np.zeros((0, 3))
        rounds = left if tolerance is None else PROBE_ROUND
        while left > 0 and not basis.complete:
            probes = np.vstack([probes, _probe(basis, min(rounds, left), generator)])
            left = hvps - (surface.hvps - before)
            if tolerance is not None:
                so_far = ProbedSpectrum(basis, chain, probes, sentinel, hvps)
                checked = (so_far.trace(), so_far.frobenius_norm())
                if all(e.half_width <= tolerance * abs(e.value) for e in checked):
                    break
    result = ProbedSpectrum(basis, chain, probes, sentinel, surface.hvps - before)
    result.tolerance = tolerance
    return result


def _grow_while_it_pays(basis: KrylovBasis, most: int, hvps: int, tolerance: float | None) -> None:
    """Lanczos steps until one more saves the probes less than it costs them.

    The variance left to n probes is ``2 ||P H P||_F^2 / n``; a step takes the fraction g of that norm
    away and 1/n of the probes. The norm comes from the chain itself, as a quadrature of x^2.
    """
    least = max(4, int(LEAST_SHARE * hvps))
    basis.grow(min(least, most))
    captured = _captured(basis)
    while basis.size < most and not basis.fruitless:
        if tolerance is not None and _eigenvalues_settled(basis, tolerance):
            return
        if basis.grow(min(6, most - basis.size)) == 0:
            return
        now = _captured(basis)
        gain = (now - captured) / 6
        captured = now
        total = ChainQuadrature.of_chain(
            basis, basis.starts[1] if len(basis.starts) > 1 else basis.size, basis.ritz(), 0.0
        ).second_moment()
        rest = max(total - now, 0.0)
        if gain * (hvps - basis.size) < rest:
            return


def _captured(basis: KrylovBasis) -> float:
    _, gram = basis.coupling()
    return float((basis.projected**2).sum() + 2 * np.trace(gram))


def _eigenvalues_settled(basis: KrylovBasis, tolerance: float) -> bool:
    ritz = basis.ritz()
    return bool((ritz.residuals[:5] <= tolerance * np.abs(ritz.values[:5])).all())


def _sentinel(basis: KrylovBasis, guard: int, most: int) -> float:
    """A short chain in the complement: the largest |Ritz value| it finds there.

    One Lanczos chain sees a repeated eigenvalue once. A copy left in the complement is its extreme
    eigenvalue, which a few steps from a fresh random start reveal; the chain joins the basis, so the copy
    is found, and eigenvalues not well above the sentinel's are not counted as simple.
    """
    largest = 0.0
    for _ in range(3):
        if basis.size >= most or basis.complete or basis.fruitless:
            break
        start = basis.size
        basis.restart()
        if basis.grow(min(guard, most - basis.size)) == 0:
            break
        block = basis.projected[start:, start:]
        largest = float(np.abs(np.linalg.eigvalsh(block)).max())
        if largest <= 0.5 * float(np.abs(basis.ritz().values).max()):
            break
    return largest


def _probe(basis: KrylovBasis, count: int, generator: torch.Generator) -> Array:
    """``(||p||², p^T H p, ||P H p||²)`` for fresh Rademacher probes of the complement, shape (count, 3)."""
    surface = basis.surface
    found = []
    chunk = max(1, min(count, 64))
    for start in range(0, count, chunk):
        size = (min(chunk, count - start), surface.dimension)
        signs = torch.randint(0, 2, size, generator=generator).to(basis.rows) * 2 - 1
        rows, _ = basis.project_out(signs)
        products = surface.hvp(rows.T).T
        outside, _ = basis.project_out(products)
        columns = ((rows * rows).sum(1), (rows * products).sum(1), (outside * outside).sum(1))
        found.append(torch.stack(columns, dim=1).double().cpu().numpy())
    return np.vstack(found)
