"""What a Krylov basis and random probes of its complement say together."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
from scipy import special

from ..errors import must_be
from .estimate import DEFAULT_TOLERANCE, JOINT_LEVEL, Array, Estimate, t_quantile
from .extremes import complement_bounds, outer_bounds
from .krylov import KrylovBasis
from .moment_quadrature import MomentQuadrature
from .probes import Probes
from .quadrature import ChainQuadrature
from .spectrum import SpectralFunction, Spectrum

# A sample variance is smaller than its mean by more than the matching factor with this probability.
LEAST_VARIANCE = 0.005


class ProbedSpectrum(Spectrum):
    """A Krylov basis Q with ``M = Q^T H Q`` and ``R = (I - QQ^T) H Q``, and probes ``p_j = P z_j``.

    With ``P = I - QQ^T``, z Rademacher, m vectors in Q:

        tr H     = tr M + E p^T H p
        ||H||_F² = ||M||_F² + 2 ||R||_F² + E ||P H p||²

    Both are unbiased given Q (Hutch++, Meyer et al. 2021, with Lanczos instead of a random sketch; the
    second splits H into its four blocks, three of which are known exactly). The means over probes are
    taken as ratios to ``||p||²``, whose mean d - m is known: exact when H is a multiple of I. Their errors
    are the jackknife's, or those that follow from ``||C||_F`` and ``tr C^4`` of the complement ``C = P H P``
    (``Var p^T C p <= 2 ||C||_F²``), as far as a few probes may agree by chance.

    The chain's own start is random too, so ``d M_11`` is one more of Hutchinson's samples, of
    variance ``2 ||H||_F²`` where a probe has ``2 ||P H P||_F²``. It joins the trace with the weight that
    these two give it: next to nothing beside outliers, that of a probe where there are none.
    """

    def __init__(self, basis: KrylovBasis, chain: int, probes: Probes, hvps: int, few: bool = False) -> None:
        self.dimension = basis.surface.dimension
        self.basis = basis
        self.ritz = basis.ritz()
        self.probes = probes
        self.hvps = hvps
        columns, gram = basis.coupling()
        self.inside = np.array([np.trace(basis.projected), (basis.projected**2).sum() + 2 * np.trace(gram)])
        self.moments, self.covariance = self._moments()
        #: no eigenvalue of the complement lies below ``-beyond[0]`` or above ``beyond[1]``
        self.beyond = complement_bounds(basis, probes.gram())
        self._chain, self.probes_only = chain, few

    @cached_property
    def quadrature(self) -> ChainQuadrature | MomentQuadrature:
        """What functionals are summed with; made when the first one is asked for."""
        if self.probes_only:
            return self._moment_quadrature()
        return ChainQuadrature.of_chain(self.basis, self._chain, self.ritz, *self.beyond)

    def _moments(self) -> tuple[Array, Array]:
        """``(tr H, ||H||_F^2)`` and the covariance of both, by jackknife over the probes."""
        rest = self.dimension - self.basis.size
        n = len(self.probes)
        #: of freedom of the trace's standard error
        self.degrees = n - 1.0
        if rest == 0 or n == 0:
            return self.inside, np.zeros((2, 2))
        found = self.probes.moments
        total = found.sum(0)
        full = rest * total[1:] / total[0]
        without = total[None, :] - found
        leave_one_out = rest * without[:, 1:] / without[:, :1] if n > 1 else full[None, :]
        spread = leave_one_out - leave_one_out.mean(0)
        moments, covariance = self.inside + full, (n - 1) / n * spread.T @ spread
        fourth = self.probes.fourth_moment(rest)
        # Of p^T C p and ||C p||^2 about their means: a multiple of the identity has no variance.
        limits = 2 / n * np.array([full[1] - full[0] ** 2 / rest, fourth - full[1] ** 2 / rest])
        if n > 1:
            # The trace: a bound that holds for sure, unless the samples themselves deny it.
            low = (n - 1) / float(2 * special.gammaincinv(0.5 * (n - 1), LEAST_VARIANCE))
            self.degrees = min(n * full[1] ** 2 / fourth, 1e6) if fourth > 0 else n - 1.0
            limits[0] = max(0.0, min(limits[0], low * covariance[0, 0]))
            # The norm, whose variance is less sure.
            limits[1] = max(limits[1], covariance[1, 1])
            for i in (0, 1):
                ratio = math.sqrt(limits[i] / covariance[i, i]) if covariance[i, i] > 0 else 0.0
                covariance[i, :] *= ratio
                covariance[:, i] *= ratio
                covariance[i, i] = limits[i]
        weight = start_weight(n, full[1], moments[1])
        moments[0] += weight * (self.dimension * self.basis.projected[0, 0] - moments[0])
        covariance[0, 0] *= 1 - weight  # of the best combination of two
        covariance[0, 1] = covariance[1, 0] = covariance[0, 1] * (1 - weight)
        return moments, covariance

    def _moment_quadrature(self) -> MomentQuadrature:
        n = len(self.probes)
        quantile = t_quantile(n - 1, JOINT_LEVEL)
        _, gram = self.basis.coupling()
        inside = (
            float(np.trace(np.linalg.matrix_power(self.basis.projected, 4))) + 2 * float(np.trace(gram)) ** 2
        )
        fourth = self.probes.fourth_moment(self.dimension - self.basis.size) + inside
        # A mean over pairs of probes has relative variance of about 4 kappa / n + 2 / pairs, where kappa, the
        # spread of one probe's part, is at most the share of the largest eigenvalue.
        bound = max(*self.beyond, float(np.abs(self.ritz.values).max()) + float(self.ritz.residuals.max()))
        share = min(bound**4 / fourth, 1.0) if fourth > 0 else 1.0
        relative = math.sqrt(8 * share / n + 4 / (n * (n - 1)))
        errors = quantile * np.append(np.sqrt(np.diag(self.covariance)), fourth * relative)
        return MomentQuadrature(
            np.append(self.moments, fourth), errors, self.dimension, bound, self.basis.rounding()
        )

    def _from_moment(self, index: int, name: str) -> Estimate:
        exact = self.basis.complete
        return Estimate.from_error(
            name,
            float(self.moments[index]),
            float(np.sqrt(self.covariance[index, index])),
            np.inf if exact else (self.degrees, len(self.probes) - 1)[index],
            level=JOINT_LEVEL,
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

    def _eigenvalue(self, name: str, value: float, bound: float) -> Estimate:
        """A Ritz value, which no eigenvalue of its rank lies inside of, and the bound outside."""
        rounding = self.basis.rounding()
        # By Cauchy's interlacing theorem a Ritz value is never further out than the eigenvalue of its rank.
        ends = sorted([value - math.copysign(rounding, bound - value), bound])
        limit = (DEFAULT_TOLERANCE if self.tolerance is None else self.tolerance) * abs(value)
        converged = max(ends[1] - value, value - ends[0]) <= limit
        note = ""
        if not converged:
            note = "a Ritz value, not settled: the interval reaches to what random starts and probes exclude"
            if self.probes_only:
                note += "; no outliers, few products (ask with eigenvalues=k)"
        # Not a standard deviation: half the width of a bound, on the same scale.
        error = 0.5 * (ends[1] - ends[0]) / t_quantile(math.inf)
        return Estimate(name, value, error, ends[0], ends[1], self.hvps, converged, note)

    def top_eigenvalues(self, k: int = 5) -> list[Estimate]:
        """The k largest eigenvalues, each between its Ritz value and a bound.

        The lower end is the Ritz value (Cauchy), the upper end what :func:`~.extremes.outer_bounds` allows.
        It bounds the eigenvalue of this rank, not some eigenvalue. A rank beyond the basis has no value,
        but an interval.
        """
        if k < 1:
            raise must_be("k", ">= 1", k)
        low, high = self.beyond
        bounds = outer_bounds(self.basis, k, high)
        found = []
        for i in range(min(k, self.dimension)):
            name = f"lambda_{i + 1}"
            if i < self.basis.size:
                found.append(self._eigenvalue(name, float(self.ritz.values[i]), float(bounds[i])))
                continue
            bottom = min(-low, float((self.ritz.values - self.ritz.residuals)[-1]))
            error = 0.5 * (float(bounds[i]) - bottom) / t_quantile(math.inf)
            note = (
                f"not resolved by {self.basis.size} Krylov vectors; ask with eigenvalues=k or more products"
            )
            found.append(Estimate(name, math.nan, error, bottom, float(bounds[i]), self.hvps, False, note))
        return found

    def bottom_eigenvalue(self) -> Estimate:
        """The smallest eigenvalue, between a bound and its Ritz value."""
        bound = -float(outer_bounds(self.basis, 1, self.beyond[0], sign=-1.0)[0])
        return self._eigenvalue("lambda_min", float(self.ritz.values[-1]), bound)

    def functional(
        self, f: SpectralFunction, name: str = "functional", steep_at_zero: bool = False
    ) -> Estimate:
        """``tr f(H)`` by :class:`~sharpbench.sharpness.quadrature.ChainQuadrature`."""
        if self.basis.complete:
            return Estimate.exact(name, float(np.sum(f(self.ritz.values))), hvps=self.hvps)
        found = self.quadrature.estimate(f, self.moments, self.covariance, steep_at_zero)
        degrees = max(len(self.probes) - 1, 1)
        return Estimate.between(
            name, found.value, found.std_error, degrees, found.below, found.above,
            limits=self._limits(f), hvps=self.hvps, tolerance=self.tolerance,
        )  # fmt: skip

    def _limits(self, f: SpectralFunction) -> tuple[float, float]:
        """The least and the largest ``tr f(H)`` that the eigenvalues' bounds allow, whatever the density."""
        known = getattr(self.quadrature, "known", np.zeros(0))
        low, high = self.quadrature.support
        side = np.geomspace(1e-6, 1.0, 200)
        grid = np.concatenate([low * side[::-1], [0.0], high * side])
        rounding = self.basis.rounding()
        with np.errstate(all="ignore"):
            values = np.asarray(f(grid), dtype=np.float64)
            settled = np.array([np.asarray(f(known + side)) for side in (-rounding, 0.0, rounding)])
        if not np.isfinite(values).all():
            return -math.inf, math.inf
        rest = self.dimension - len(known)
        least, most = float(settled.min(0).sum()), float(settled.max(0).sum())
        return least + rest * float(values.min()), most + rest * float(values.max())

    def smoothed(self, kernel: Callable[[Array], Array]) -> tuple[Array, Array]:
        """The mean over all rules that the chain's moments allow; the error holds their range and chance."""
        if self.basis.complete:
            return super().smoothed(kernel)
        return self.quadrature.smoothed(kernel)

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
