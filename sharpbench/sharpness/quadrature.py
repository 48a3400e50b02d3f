"""tr f(H) from one Lanczos chain, with what is known exactly taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .estimate import Array
from .krylov import KrylovBasis, RitzPairs
from .spectrum import SpectralFunction

# A Ritz pair counts as an eigenvalue once its residual is this small beside it: its vector is then
# contaminated by at most about the square of that.
KNOWN_RESIDUAL = 0.05
SHORT_CHAIN = 20


@dataclass(frozen=True)
class ChainQuadrature:
    """Stochastic Lanczos quadrature with deflation and control variates.

    One chain from a Rademacher start z is a Gauss quadrature of the spectral measure of z,
    ``z^T f(H) z ~ sum_k w_k f(theta_k)``, ``w_k = d tau_k^2`` (Ubaru, Chen & Saad, 2017), whose mean over z
    is tr f(H). Three things are known better than z knows them: the converged outlying eigenvalues
    (exactly one each), the dimension, and (from the probes) tr H and ||H||_F². So

        tr f(H) ~ sum_known f(lambda) + tr p(H)_rest + sum_{k in bulk} w_k (f - p)(theta_k)

    with p the quadratic fitted to f on the bulk. The first term is exact, the second uses the estimated
    moments, and only the misfit f - p carries the chance of the start: its variance is at most
    ``2 ||(f - p)(H)||_F^2``, which the same quadrature evaluates.

    For a function with a kink at 0, such as log(1 + |lambda| / delta), a rule of one node less errs to the
    other side, by as much where the density is smooth: the value is the mean of both. Networks are different:
    much of their spectrum is an atom at 0, which the rule with a node there has right and the other smears.
    The atom shows in that node's weight, beside its neighbours' (:meth:`atom`), and the value moves to that
    rule accordingly. The bias bound is the rules' difference, a third of it beside an atom. Under 20 nodes
    neighbours may agree and both be wrong, so half as many nodes are compared too, or a single one.
    """

    known: Array
    nodes: Array
    weights: Array
    dimension: int
    rounding: float
    shorter: ChainQuadrature | None = None
    half: ChainQuadrature | None = None

    @classmethod
    def of_chain(
        cls, basis: KrylovBasis, length: int, ritz: RitzPairs, sentinel: float, shorten: bool = True
    ) -> ChainQuadrature:
        """From the first ``length`` vectors of the basis, which are one chain."""
        if shorten and length >= 6:
            # An even number of nodes: none then sits by symmetry at 0, where |lambda| has its kink.
            length -= length % 2
        d = basis.surface.dimension
        nodes, vectors = np.linalg.eigh(basis.projected[:length, :length])
        weights = d * vectors[0] ** 2
        # The chain's own residuals: its last vector's coupling to whatever follows it.
        coupling = _coupling_after(basis, length)
        unsure = np.abs(vectors[-1]) * coupling > KNOWN_RESIDUAL * np.abs(nodes)
        settled = ritz.residuals <= KNOWN_RESIDUAL * np.abs(ritz.values)
        above = _threshold(nodes[unsure], ritz.values[~settled], 1.5 * sentinel)
        below = _threshold(-nodes[unsure], -ritz.values[~settled], 1.5 * sentinel)
        outlying = (ritz.values > above) | (ritz.values < -below)
        bulk = (nodes <= above) & (nodes >= -below)
        known = ritz.values[outlying]
        if not bulk.any():  # nothing is left to carry the remaining dimension: keep every node
            known, bulk = known[:0], np.ones_like(bulk)
        shorter = half = None
        if shorten and length >= 3:  # a rule of one node can't hold both moments
            shorter = cls.of_chain(basis, length - 1, ritz, sentinel, shorten=False)
            if length >= 4 and bulk.sum() < SHORT_CHAIN:
                half = cls.of_chain(basis, length // 2, ritz, sentinel, shorten=False)
        return cls(known, nodes[bulk], weights[bulk], d, basis.rounding(), shorter, half)

    @classmethod
    def of_moments(cls, moments: Array, dimension: int, rounding: float) -> ChainQuadrature:
        """Two nodes, the mean and the standard deviation to each side of it: all that two moments tell."""
        mean = moments[0] / dimension
        spread = float(np.sqrt(max(moments[1] / dimension - mean**2, 0.0)))
        nodes = np.array([mean - spread, mean + spread])
        return cls(np.zeros(0), nodes, np.full(2, dimension / 2), dimension, rounding)

    def second_moment(self) -> float:
        """``||H||_F^2`` as this chain alone sees it."""
        return float((self.known**2).sum() + self._calibrated() @ self.nodes**2)

    def _calibrated(self) -> Array:
        """The bulk's weights scaled to carry exactly the remaining dimension."""
        total = float(self.weights.sum())
        return self.weights * ((self.dimension - len(self.known)) / total) if total > 0 else self.weights

    def estimate(self, f: SpectralFunction, moments: Array, covariance: Array) -> tuple[float, float, float]:
        """``(tr f(H), standard error, bound on the quadrature's bias)``.

        Args:
            f: vectorised.
            moments: estimates of ``(tr H, ||H||_F^2)``.
            covariance: of those two, shape ``(2, 2)``.
        """
        value, slopes, misfit = self._fit(f, moments)
        variance = 2 * misfit + float(slopes @ covariance @ slopes)
        bias = 0.0
        if self.shorter is not None:
            other, near = self.shorter._fit(f, moments)[0], self
            if np.abs(self.shorter.nodes).min() < np.abs(self.nodes).min():
                value, other, near = other, value, self.shorter
            far = 0.5 * (1 - near.atom())
            value, bias = (1 - far) * value + far * other, (1 + 4 * far) / 3 * abs(value - other)
        if self.half is not None:
            bias = max(bias, abs(value - self.half._fit(f, moments)[0]))
        elif len(self.nodes) < SHORT_CHAIN:
            bias = max(bias, abs(value - self._at_the_mean(f, moments)))
        return value, float(np.sqrt(max(variance, 0.0))), bias

    def _at_the_mean(self, f: SpectralFunction, moments: Array) -> float:
        """The crudest rule: all of the bulk at its mean."""
        rest = self.dimension - len(self.known)
        points = np.append(self.known, (moments[0] - self.known.sum()) / max(rest, 1))
        return float(np.append(np.ones(len(self.known)), rest) @ np.asarray(f(points), dtype=np.float64))

    def atom(self) -> float:
        """How much of the weight at the node nearest to 0 is an atom's, as far as that decides: in [0, 1].

        A smooth density gives neighbouring nodes of a Gauss rule weights of one size. 0: up to 4/3 of the
        neighbours' mean; 1: from 4 times on; between them by the share that exceeds it.
        """
        i = int(np.abs(self.nodes).argmin())
        beside = self.weights[[j for j in (i - 1, i + 1) if 0 <= j < len(self.nodes)]]
        if len(beside) == 0 or self.weights[i] <= 0:
            return 0.0
        share = 1 - float(beside.mean() / self.weights[i])
        return min(max(2 * share - 0.5, 0.0), 1.0)

    def _fit(self, f: SpectralFunction, moments: Array) -> tuple[float, Array, float]:
        # A bulk of rounding errors around zero must not set the unit.
        scale = max(float(np.abs(self.nodes).max()), self.rounding) or 1.0
        x = self.nodes / scale
        design = np.stack([np.ones_like(x), x, x**2], axis=1)
        values = np.asarray(f(self.nodes), dtype=np.float64)
        root = np.sqrt(self.weights)[:, None]
        coefficients = np.linalg.lstsq(root * design, root[:, 0] * values, rcond=1e-10)[0]
        misfit = values - design @ coefficients
        rest = np.array(
            [
                self.dimension - len(self.known),
                (moments[0] - self.known.sum()) / scale,
                (moments[1] - (self.known**2).sum()) / scale**2,
            ]
        )
        known = float(np.sum(f(self.known))) if len(self.known) else 0.0
        value = known + float(rest @ coefficients) + float(self.weights @ misfit)
        slopes = coefficients[1:] / np.array([scale, scale**2])
        return value, slopes, float(self.weights @ misfit**2)

    def weighted_nodes(self) -> tuple[Array, Array, Array]:
        """Nodes, positive weights that sum to d, and 1 where the node is a known eigenvalue."""
        nodes = np.concatenate([self.known, self.nodes])
        weights = np.concatenate([np.ones(len(self.known)), self._calibrated()])
        flags = np.concatenate([np.ones(len(self.known)), np.zeros(len(self.nodes))])
        return nodes, weights, flags


def _coupling_after(basis: KrylovBasis, length: int) -> float:
    """``||(I - Q_l Q_l^T) H q_l||``: inside the basis, and outside it."""
    inside = float((basis.projected[length:, length - 1] ** 2).sum())
    columns, gram = basis.coupling()
    outside = (
        float(gram[columns.index(length - 1), columns.index(length - 1)]) if length - 1 in columns else 0.0
    )
    return float(np.sqrt(inside + outside))


def _threshold(*candidates: Array | float) -> float:
    """The smallest bound at or above every candidate, and at least zero."""
    return max(0.0, *(float(np.max(c, initial=0.0)) for c in candidates))
