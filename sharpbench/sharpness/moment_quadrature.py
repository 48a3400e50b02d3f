"""tr f(H) where only a few moments are known: a model for the value, and all that the moments allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from .estimate import Array
from .quadrature import Functional
from .spectrum import SpectralFunction

# Nodes of the semicircle, and grid points of the linear programme on either side of zero.
MODEL_NODES = 64
GRID = 300


@dataclass(frozen=True)
class MomentQuadrature:
    """``tr f(H)`` from ``tr H``, ``sum lambda^2`` and ``sum lambda^4``, with a bound on abs(lambda).

    The value comes from a model with these moments: an atom at zero and a semicircle, which stands for the
    untrained networks where no eigenvalue is worth finding; the share of the atom follows from the fourth
    moment. The range is the least and the largest ``sum f`` over all spectra in ``[-bound, bound]`` whose
    moments lie within their errors, by linear programming.

    Args:
        moments: ``(tr H, sum lambda^2, sum lambda^4)``.
        errors: their 95 % half widths.
        dimension: d.
        bound: on abs(lambda).
        rounding: what products leave uncertain in an eigenvalue.
    """

    moments: Array
    errors: Array
    dimension: int
    bound: float
    rounding: float

    @property
    def support(self) -> tuple[float, float]:
        """Where eigenvalues can lie."""
        return -self.bound, self.bound

    def model(self) -> tuple[Array, Array]:
        """Nodes and weights (of sum d) of the atom and the semicircle."""
        first, second, fourth = (float(m) for m in self.moments)
        # A semicircle of radius r has second moment r^2/4 and fourth moment r^4/8 = 2 (r^2/4)^2.
        share = min(1.0, 2 * second**2 / (self.dimension * fourth)) if fourth > 0 else 1.0
        count = max(share * self.dimension, 1.0)
        mean = first / count
        radius = 2 * np.sqrt(max(second / count - mean**2, 0.0))
        angles = np.arange(1, MODEL_NODES + 1) * np.pi / (MODEL_NODES + 1)
        weights = np.sin(angles) ** 2
        nodes = mean + radius * np.cos(angles)
        weights = count * weights / weights.sum()
        return np.append(nodes, 0.0), np.append(weights, self.dimension - count)

    def estimate(
        self, f: SpectralFunction, moments: Array, covariance: Array, steep_at_zero: bool = False
    ) -> Functional:
        """``tr f(H)``; the arguments after ``f`` are those of a chain's quadrature and not used."""
        nodes, weights = self.model()
        value = float(weights @ np.asarray(f(nodes), dtype=np.float64))
        lowest, highest = self._range(f)
        value = min(max(value, lowest), highest)
        return Functional(value, 0.0, value - lowest, highest - value)

    def smoothed(self, kernel: Callable[[Array], Array]) -> tuple[Array, Array]:
        """``sum_i k(t, lambda_i)`` of the model, of which half is taken for the error."""
        nodes, weights = self.model()
        found = kernel(nodes) @ weights
        return found, np.maximum(0.5 * found, 0.25 * float(found.max()))

    def _range(self, f: SpectralFunction) -> tuple[float, float]:
        side = np.geomspace(1e-7, 1.0, GRID)
        grid = self.bound * np.concatenate([-side[::-1], [0.0], side])
        with np.errstate(all="ignore"):
            values = np.asarray(f(grid), dtype=np.float64)
        if not np.isfinite(values).all():
            return -np.inf, np.inf
        scaled = grid / self.bound
        rows, limits = [], []
        for power, moment, error in zip((1, 2, 4), self.moments, self.errors, strict=True):
            centre, half = moment / self.bound**power, error / self.bound**power + 1e-9 * self.dimension
            rows += [scaled**power, -(scaled**power)]
            limits += [centre + half, half - centre]
        size = float(np.abs(values).max()) or 1.0
        ends = []
        for sign in (1.0, -1.0):
            solved = optimize.linprog(
                sign * values / size,
                A_ub=np.array(rows) / self.dimension,
                b_ub=np.array(limits) / self.dimension,
                A_eq=np.ones((1, len(grid))),
                b_eq=[1.0],
            )
            ends.append(sign * solved.fun * size * self.dimension if solved.success else -sign * np.inf)
        return ends[0], ends[1]

    def weighted_nodes(self) -> tuple[Array, Array, Array]:
        """The model's nodes and weights; none is a known eigenvalue."""
        nodes, weights = self.model()
        return nodes, weights, np.zeros(len(nodes))
