"""tr f(H) from one Lanczos chain, with what is known exactly taken out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .estimate import Array
from .extremes import chain_coefficients
from .krylov import KrylovBasis, RitzPairs
from .rules import Rule, ZeroCell, gauss_rule, possible_rules, rule_with_node, rules_near_zero
from .spectrum import SpectralFunction

# A Ritz pair counts as an eigenvalue once its residual is this small beside it: its vector is then
# contaminated by at most about the square of that.
KNOWN_RESIDUAL = 0.05
# Rules whose bulks differ in weight by more have moved an outlier into the bulk, or out of it.
SAME_SHARE = 0.01


@dataclass(frozen=True)
class Functional:
    """``tr f(H)``: its value, its standard error, and how far quadrature may be off on either side."""

    value: float
    std_error: float
    below: float
    above: float


@dataclass(frozen=True)
class ChainQuadrature:
    """Stochastic Lanczos quadrature with deflation and control variates.

    One chain from a random unit vector b is a Gauss quadrature of the spectral measure of b,
    ``d b^T f(H) b ~ sum_k w_k f(theta_k)`` (Ubaru, Chen & Saad, 2017), whose mean over b is tr f(H). Three
    things are known better than b knows them: the settled outlying eigenvalues (exactly one each), the
    dimension, and (from the probes) tr H and ||H||_F². So

        tr f(H) ~ sum_known f(lambda) + tr p(H)_rest + sum_{k in bulk} w_k (f - p)(theta_k)

    with p the quadratic fitted to f on the bulk. The first term is exact, the second uses the estimated
    moments, and only the misfit f - p carries the chance of the start: its variance is at most
    ``2 ||(f - p)(H)||_F^2``, which the same quadrature evaluates. An eigenvalue is known if its Ritz pair is
    settled and no eigenvalue of the complement, such as a second copy of it, can lie so far out.

    The chain's moments do not determine its measure. :func:`~.rules.possible_rules` are the extremes that
    they allow; the range of the sum over them is the bias bound, and their mean the value. A function that is
    steep or has a kink at zero, as functions of abs(lambda) have, takes its value from the rule with a node
    at zero instead, with that node's mass distributed by :class:`~.rules.ZeroCell`: the more, the further the
    spectrum is from a smooth density there.
    """

    known: Array
    gauss: Rule
    rules: tuple[Rule, ...]
    near_zero: tuple[Rule, ...]
    dimension: int
    rounding: float
    support: tuple[float, float]

    @classmethod
    def of_chain(
        cls, basis: KrylovBasis, length: int, ritz: RitzPairs, low: float, high: float, complete: bool = True
    ) -> ChainQuadrature:
        """From the first ``length`` vectors of the basis, which are one chain.

        Args:
            basis: the basis.
            length: of its first chain.
            ritz: its Ritz pairs.
            low: no eigenvalue of the complement lies below ``-low``.
            high: none lies above ``high``.
            complete: with the rules that bound the bias.
        """
        d = basis.surface.dimension
        diagonal, outward = chain_coefficients(basis, 0, length)
        couplings, last = outward[:-1], float(outward[-1])
        gauss = gauss_rule(diagonal, couplings)
        nodes, vectors = np.linalg.eigh(basis.projected[:length, :length])
        unsure = np.abs(vectors[-1]) * last > KNOWN_RESIDUAL * np.abs(nodes)
        settled = ritz.residuals <= KNOWN_RESIDUAL * np.abs(ritz.values)
        # The same eigenvalue comes out of two matrices with different rounding.
        slack = basis.rounding() + 1e-12 * float(np.abs(nodes).max())
        above = _threshold(nodes[unsure], ritz.values[~settled], high) + slack
        below = _threshold(-nodes[unsure], -ritz.values[~settled], low) + slack
        known = ritz.values[(ritz.values > above) | (ritz.values < -below)]
        bulk = _within(gauss, -below, above)
        if bulk is None:  # nothing is left to carry the remaining dimension: keep every node
            known, above, below, bulk = known[:0], np.inf, np.inf, gauss
        spread: list[Rule] = []
        around: list[Rule] = []
        if complete and last > 2 * basis.rounding():  # else the chain has ended: its rule is the measure
            longer = np.append(diagonal, diagonal[-1])
            candidates = possible_rules(longer, outward, nodes[0] - slack - low, nodes[-1] + slack + high)
            candidates.append(gauss)
            zero = rule_with_node(longer, outward, 0.0)
            near = [] if zero is None else rules_near_zero(longer, outward, zero)
            share = float(bulk.weights.sum())
            spread = _bulks(candidates, -below, above, share, d - len(known))
            at_zero = _bulks([] if zero is None else [zero], -below, above, share, d - len(known))
            around = at_zero and at_zero + _bulks(near, -below, above, share, d - len(known))
        support = (
            -max(below if np.isfinite(below) else low, low),
            max(above if np.isfinite(above) else high, high),
        )
        own = Rule(bulk.nodes, d * bulk.weights)
        return cls(known, own, tuple(spread), tuple(around), d, basis.rounding(), support)

    @property
    def shake(self) -> float:
        """What rounding leaves uncertain in an eigenvalue near zero, less than in the largest."""
        return self.rounding / 10

    def second_moment(self) -> float:
        """``||H||_F^2`` as this chain alone sees it."""
        rest = _scaled(self.gauss, self.dimension - len(self.known))
        return float((self.known**2).sum() + rest.weights @ rest.nodes**2)

    def estimate(
        self, f: SpectralFunction, moments: Array, covariance: Array, steep_at_zero: bool = False
    ) -> Functional:
        """``tr f(H)``.

        Args:
            f: vectorised.
            moments: estimates of ``(tr H, ||H||_F^2)``.
            covariance: of those two, shape ``(2, 2)``.
            steep_at_zero: f has a kink or a narrow peak at zero.
        """
        mass = float(self.dimension - len(self.known))
        rules = self.rules or (_scaled(self.gauss, mass),)
        nodes = np.concatenate([rule.nodes for rule in rules])
        weights = np.concatenate([rule.weights for rule in rules])
        # A bulk of rounding errors around zero must not set the unit.
        scale = max(float(np.abs(nodes).max()), self.rounding) or 1.0
        values = np.asarray(f(nodes), dtype=np.float64)
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(root[:, None] * _powers(nodes / scale), root * values, rcond=1e-10)[0]

        def misfit(points: Array) -> Array:
            found = np.asarray(f(points), dtype=np.float64) - _powers(points / scale) @ coefficients
            return np.asarray(found)

        rest = np.array(
            [mass, (moments[0] - self.known.sum()) / scale, (moments[1] - (self.known**2).sum()) / scale**2]
        )
        base = float(rest @ coefficients) + (float(np.sum(f(self.known))) if len(self.known) else 0.0)
        found = [float(rule.weights @ misfit(rule.nodes)) for rule in rules]
        value = float(np.mean(found))
        found += [float(rule.weights @ misfit(rule.nodes)) for rule in self.near_zero]
        if steep_at_zero and self.near_zero:
            zero = self.near_zero[0]
            index = int(np.abs(zero.nodes).argmin())
            spread = float(misfit(self.cell.points()).mean() - misfit(zero.nodes[[index]])[0])
            at_zero = float(zero.weights @ misfit(zero.nodes)) + float(zero.weights[index]) * spread
            # For a smooth density the mean of all rules is better: positions of the nodes average out.
            smooth = self.cell.exponent**2
            value = smooth * value + (1 - smooth) * at_zero
        lowest, highest = min(found), max(found)
        value = min(max(value, lowest), highest)
        last, sides = rules[-1], (-self.shake, self.shake)
        shaken = (np.abs(misfit(last.nodes + side) - misfit(last.nodes)) for side in sides)
        rounding = float(last.weights @ np.maximum(*shaken))
        if len(self.known):
            sides = (-self.rounding, self.rounding)
            moved = (np.abs(np.asarray(f(self.known + side)) - np.asarray(f(self.known))) for side in sides)
            rounding += float(np.maximum(*moved).sum())
        # A node may stand for a single eigenvalue: its weight, a squared normal deviate, then says nothing of
        # its own variance where it came out small. The Gauss rule alone may miss where f - p is large.
        squares = max(float(np.maximum(rule.weights, 1.0) @ misfit(rule.nodes) ** 2) for rule in rules)
        slopes = coefficients[1:] / np.array([scale, scale**2])
        error = math.sqrt(max(2 * squares + float(slopes @ covariance @ slopes), 0.0))
        return Functional(base + value, error, value - lowest + rounding, highest - value + rounding)

    def smoothed(self, kernel: Callable[[Array], Array]) -> tuple[Array, Array]:
        """``sum_i k(t, lambda_i)`` at many t as the mean over the rules, and its standard error.

        Half the distance to the further extreme of the rules is taken for a standard deviation of the bias.
        """
        rules = self.rules or (_scaled(self.gauss, self.dimension - len(self.known)),)
        settled = kernel(self.known).sum(1) if len(self.known) else 0.0
        found = np.stack([kernel(rule.nodes) @ rule.weights for rule in rules])
        chance = 2 * kernel(self.gauss.nodes) ** 2 @ np.maximum(self.gauss.weights, 1.0)
        value = found.mean(0)
        bias = np.maximum(found.max(0) - value, value - found.min(0)) / 2
        return settled + value, np.sqrt(chance + bias**2)

    @cached_property
    def cell(self) -> ZeroCell:
        """How the mass at zero is distributed."""
        rule = self.near_zero[0] if self.near_zero else self.gauss
        return ZeroCell.around(rule, int(np.abs(rule.nodes).argmin()))

    def weighted_nodes(self) -> tuple[Array, Array, Array]:
        """Nodes, positive weights that sum to d, and 1 where the node is a known eigenvalue."""
        bulk = _scaled(self.gauss, self.dimension - len(self.known))
        nodes = np.concatenate([self.known, bulk.nodes])
        weights = np.concatenate([np.ones(len(self.known)), bulk.weights])
        flags = np.concatenate([np.ones(len(self.known)), np.zeros(len(bulk.nodes))])
        return nodes, weights, flags


def _powers(x: Array) -> Array:
    return np.stack([np.ones_like(x), x, x**2], axis=1)


def _within(rule: Rule, low: float, high: float) -> Rule | None:
    kept = (rule.nodes >= low) & (rule.nodes <= high)
    return Rule(rule.nodes[kept], rule.weights[kept]) if kept.any() else None


def _bulks(rules: list[Rule], low: float, high: float, share: float, mass: float) -> list[Rule]:
    """The bulks of those rules that have as much weight there as the Gauss rule, scaled to the same mass."""
    found = []
    for rule in rules:
        bulk = _within(rule, low, high)
        if bulk is not None and abs(float(bulk.weights.sum()) - share) <= SAME_SHARE * share:
            found.append(_scaled(bulk, mass))
    return found


def _scaled(rule: Rule, mass: float) -> Rule:
    """The rule with weights that sum to ``mass``."""
    total = float(rule.weights.sum())
    return Rule(rule.nodes, rule.weights * (mass / total) if total > 0 else rule.weights)


def _threshold(*candidates: Array | float) -> float:
    """The smallest bound at or above every candidate, and at least zero."""
    return max(0.0, *(float(np.max(c, initial=0.0)) for c in candidates))
