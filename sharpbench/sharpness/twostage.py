"""The two-stage pass: a Krylov basis, random probes of its complement, and what both say together."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch

from ..errors import must_be
from .estimate import Array, Estimate, t_quantile
from .krylov import KrylovBasis
from .operator import SymmetricOperator
from .quadrature import ChainQuadrature
from .spectrum import SpectralFunction, Spectrum

KRYLOV_SHARE = 0.7
# Steps after which the pass first asks whether there are outliers worth finding.
FIRST_LOOK = 0.1
# With outliers, fewer steps than this share give neither five eigenvalues nor a quadrature worth its name.
LEAST_SHARE = 0.45
# An outlier takes about so many steps: its square must be worth as many probes.
OUTLIER_SHARE = 6.0
# The same where eigenvalues were asked for: one that is worth a probe and a half is no part of a bulk.
ASKED_SHARE = 1.5
# A Ritz value with this relative residual is off by about its square.
SETTLED = 0.1
# With so much of the norm captured, LEAST_SHARE of the products spent on it still leaves a better trace.
MOST_OF_NORM = 0.6
PROBE_ROUND = 10
WARM_VECTORS = 8


class ProbedSpectrum(Spectrum):
    """A Krylov basis Q with ``M = Q^T H Q`` and ``R = (I - QQ^T) H Q``, and probes ``p_j = P z_j``.

    With ``P = I - QQ^T``, z Rademacher, m vectors in Q:

        tr H     = tr M + E p^T H p
        ||H||_F² = ||M||_F² + 2 ||R||_F² + E ||P H p||²

    Both are unbiased given Q (Hutch++, Meyer et al. 2021, with Lanczos instead of a random sketch; the
    second splits H into its four blocks, three of which are known exactly). The means over probes are
    taken as ratios to ``||p||²``, whose mean d - m is known: exact when H is a multiple of I.

    The chain's own start is a Rademacher vector too, so ``d M_11`` is one more of Hutchinson's samples, of
    variance ``2 ||H||_F²`` where a probe has ``2 ||P H P||_F²``. It joins the trace with the weight that
    these two give it: next to nothing beside outliers, that of a probe where there are none.
    """

    def __init__(self, basis: KrylovBasis, chain: int, probes: Array, sentinel: float, hvps: int) -> None:
        self.dimension = basis.surface.dimension
        self.basis = basis
        self.ritz = basis.ritz()
        self.probes = probes
        self.hvps = hvps
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
        moments, covariance = self.inside + full, (n - 1) / n * spread.T @ spread
        weight = start_weight(n, full[1], moments[1])
        moments[0] += weight * (self.dimension * self.basis.projected[0, 0] - moments[0])
        covariance[0, 0] *= 1 - weight  # of the best combination of two
        covariance[0, 1] = covariance[1, 0] = covariance[0, 1] * (1 - weight)
        return moments, covariance

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
        low, high, note = value - bound, value + bound, ""
        converged = bound <= (self.tolerance or 0.05) * abs(value)
        if not converged:
            # The bound holds *an* eigenvalue. The one of this rank may hide further out, among those that
            # the pairs before it stand for.
            note = "Ritz value not converged: interval from residual bounds"
            if name == "lambda_min":
                low = float((self.ritz.values - self.ritz.residuals)[index:].min())
            else:
                high = float((self.ritz.values + self.ritz.residuals)[: index + 1].max())
        # Not a standard deviation: half the width of a bound, on the same scale.
        error = 0.5 * (high - low) / t_quantile(1e9)
        return Estimate(name, value, error, low, high, self.hvps, converged, note)

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


def start_weight(probes: int, rest: float, whole: float) -> float:
    """Weight of one sample of variance ``whole`` beside a mean of ``probes`` samples of variance ``rest``.

    >>> start_weight(9, 1.0, 1.0), start_weight(9, 0.0, 1.0)
    (0.1, 0.0)
    """
    return rest / (rest + probes * whole) if rest > 0 else 0.0


def measure_two_stage(
    surface: SymmetricOperator,
    hvps: int,
    generator: torch.Generator,
    tolerance: float | None,
    eigenvalues: int = 0,
    warm: Spectrum | None = None,
) -> Spectrum:
    """Krylov stage, a sentinel chain, then probes: at most ``hvps`` products."""
    before = surface.hvps
    most = max(4, int(KRYLOV_SHARE * hvps))
    guard = max(1, min(6, hvps // 12))
    earlier = warm.basis.outlying_vectors(min(WARM_VECTORS, most // 2)) if _has_basis(warm) else None
    reserved = guard + (0 if earlier is None else len(earlier))
    basis = KrylovBasis(surface, most, generator)
    with surface.session():
        outliers = _grow_while_it_pays(basis, max(2, most - reserved), hvps, guard, tolerance, eigenvalues)
        chain = basis.size if len(basis.starts) < 2 else basis.starts[1]
        if earlier is not None:
            basis.include(earlier)
        # Without outliers no eigenvalue is counted as known, and no copy of one need be looked for.
        sentinel = _sentinel(basis, guard, most) if outliers else np.inf
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


def _has_basis(warm: Spectrum | None) -> TypeGuard[ProbedSpectrum]:
    return isinstance(warm, ProbedSpectrum)


def _grow_while_it_pays(
    basis: KrylovBasis, most: int, hvps: int, guard: int, tolerance: float | None, eigenvalues: int
) -> bool:
    """Lanczos steps until one more saves the probes less than it costs them; whether outliers were found.

    The variance left to n probes is ``2 ||P H P||_F^2 / n``, of which the chain itself tells the numerator,
    as a quadrature of x^2; plain Hutchinson has ``2 ||H||_F^2 / hvps``. A step pays if it captures more of
    the norm than the share of the probes it takes. Three reasons to go on all the same: an eigenvalue not yet
    settled that holds much of the norm; eigenvalues that were asked for, while the largest is an outlier at
    all; and, once most of the norm is captured, so that the trace is better than Hutchinson's in any case,
    enough steps for five eigenvalues and a quadrature.
    """
    look = max(2, round(FIRST_LOOK * hvps))
    least = max(4, int(LEAST_SHARE * hvps))
    share = ASKED_SHARE if eigenvalues else OUTLIER_SHARE
    before, step = 0.0, basis.grow(min(look, most))
    while step > 0:
        ritz, captured, total = basis.ritz(), _captured(basis), _second_moment(basis)
        rest = max(total - captured, 0.0)
        if tolerance is not None and basis.size >= least and _eigenvalues_settled(basis, tolerance):
            break
        unsettled = ritz.residuals > SETTLED * np.abs(ritz.values)
        missing = basis.size < eigenvalues or bool(unsettled[:eigenvalues].any())
        wanted = missing and _worth_finding(ritz.values[:1], total, hvps, share)
        if not wanted and (captured - before) / step * (hvps - basis.size - guard) < rest:
            enough = captured < MOST_OF_NORM * total and not _worth_finding(
                ritz.values[unsettled], total, hvps, OUTLIER_SHARE
            )
            if enough or basis.size >= least:
                break
        before = captured
        step = basis.grow(min(6, most - basis.size) if basis.size >= least else min(look, least - basis.size))
    return _worth_finding(basis.ritz().values, _second_moment(basis), hvps, share)


def _worth_finding(values: Array, total: float, hvps: int, share: float) -> bool:
    return float((values**2).max(initial=0.0)) * hvps > share * total


def _second_moment(basis: KrylovBasis) -> float:
    chain = basis.size if len(basis.starts) < 2 else basis.starts[1]
    return ChainQuadrature.of_chain(basis, chain, basis.ritz(), 0.0).second_moment()


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
        signs = torch.randint(0, 2, size, generator=generator, dtype=torch.float32)
        signs = signs.mul_(2).sub_(1).to(basis.rows)
        rows, _ = basis.project_out(signs)
        products = surface.hvp(rows.T).T
        outside, _ = basis.project_out(products)
        columns = ((rows * rows).sum(1), (rows * products).sum(1), (outside * outside).sum(1))
        found.append(torch.stack(columns, dim=1).double().cpu().numpy())
    return np.vstack(found)
