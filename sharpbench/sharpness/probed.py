"""What a Krylov basis and random probes of its complement say together."""

from __future__ import annotations

import numpy as np

from ..errors import must_be
from .estimate import Array, Estimate, t_quantile
from .krylov import KrylovBasis
from .quadrature import ChainQuadrature
from .spectrum import SpectralFunction, Spectrum


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

    def __init__(
        self,
        basis: KrylovBasis,
        chain: int,
        probes: Array,
        sentinel: float,
        hvps: int,
        largest: float | None = None,
    ) -> None:
        self.dimension = basis.surface.dimension
        self.basis = basis
        self.ritz = basis.ritz()
        self.probes = probes
        self.hvps = hvps
        columns, gram = basis.coupling()
        self.inside = np.array([np.trace(basis.projected), (basis.projected**2).sum() + 2 * np.trace(gram)])
        self.moments, self.covariance = self._moments()
        #: a bound on |lambda| where the budget went to the probes alone
        self.largest = largest
        if largest is None:
            self.quadrature = ChainQuadrature.of_chain(basis, chain, self.ritz, sentinel)
        else:
            self.quadrature = ChainQuadrature.of_moments(self.moments, self.dimension, basis.rounding())

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
        if self.largest is not None:
            low, high = min(low, -self.largest), max(high, self.largest)
            converged, note = False, "no outliers, few products: a bound (ask with eigenvalues=k)"
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
