"""Quadrature rules of one Lanczos chain: all that its moments allow, and the one with a node at zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from .estimate import Array

# Rules that are compared: as many positions of the nodes within their gaps.
POSITIONS = 33
# Distances from zero, as shares of the next nodes', at which a node is put on either side.
DISTANCES = np.geomspace(1e-4, 0.7, 12)
# Nodes of the distribution that stands for the mass around zero.
CELL_NODES = 128


@dataclass(frozen=True)
class Rule:
    """Nodes, ascending, and weights of mean 1/d: their sum is 1."""

    nodes: Array
    weights: Array


def gauss_rule(diagonal: Array, couplings: Array) -> Rule:
    """The Gauss rule of a chain with ``couplings`` inside it: exact for polynomials of degree 2m - 1.

    >>> rule = gauss_rule(np.zeros(2), np.ones(1))
    >>> [round(float(x), 3) for x in rule.nodes], [round(float(w), 3) for w in rule.weights]
    ([-1.0, 1.0], [0.5, 0.5])
    """
    if len(diagonal) == 1:
        return Rule(np.array(diagonal), np.ones(1))
    nodes, vectors, _ = linalg.lapack.dstevd(diagonal, couplings)
    return Rule(nodes, vectors[0] ** 2)


def possible_rules(diagonal: Array, couplings: Array, low: float, high: float) -> list[Rule]:
    """Rules of degree 2m - 2 with their nodes at all positions, none outside ``[low, high]``.

    The moments of a chain leave one coefficient free, the last on the diagonal. As it runs over all numbers,
    each node wanders through its gap, and the weight of a node is the largest mass that the moments allow at
    that point. For functions with a jump or a kink these rules are the extremes of ``tr f(H)`` over all
    measures with the chain's moments (Chebyshev, Markov and Stieltjes), so their range bounds the error of
    the quadrature.
    """
    if len(diagonal) < 2:
        return [gauss_rule(diagonal, couplings)]
    found = []
    for angle in np.linspace(-0.5 * np.pi, 0.5 * np.pi, POSITIONS + 2)[1:-1]:
        moved = diagonal.copy()
        moved[-1] += 2 * couplings[-1] * np.tan(angle)
        rule = gauss_rule(moved, couplings)
        if rule.nodes[0] >= low and rule.nodes[-1] <= high:
            found.append(rule)
    return found


def rule_with_node(diagonal: Array, couplings: Array, node: float) -> Rule | None:
    """The rule of degree 2m - 2 with one node prescribed; ``None`` where no last coefficient gives it.

    >>> rule = rule_with_node(np.zeros(3), np.ones(2), 0.5)
    >>> bool(np.isclose(rule.nodes, 0.5).any())
    True
    """
    inverse = _last_of_inverse(diagonal, couplings, node)
    moved = diagonal.copy()
    moved[-1] = node + couplings[-1] ** 2 * inverse
    return gauss_rule(moved, couplings) if np.isfinite(moved[-1]) else None


def rule_with_nodes(diagonal: Array, couplings: Array, first: float, second: float) -> Rule | None:
    """The rule of degree 2m - 3 with two nodes prescribed (Gauss-Lobatto); ``None`` if there is none.

    The last coefficient of the diagonal and the last coupling are free.

    >>> rule = rule_with_nodes(np.zeros(3), np.ones(2), -2.0, 2.0)
    >>> [round(float(x), 12) + 0.0 for x in rule.nodes]
    [-2.0, 0.0, 2.0]
    """
    ends = [_last_of_inverse(diagonal, couplings, node) for node in (first, second)]
    if not np.isfinite(ends).all() or ends[0] == ends[1]:
        return None
    squared = (second - first) / (ends[0] - ends[1])
    if not squared > 0:
        return None
    moved, changed = diagonal.copy(), couplings.copy()
    moved[-1], changed[-1] = first + squared * ends[0], np.sqrt(squared)
    return gauss_rule(moved, changed)


def _last_of_inverse(diagonal: Array, couplings: Array, node: float) -> float:
    """The last element of ``(T - node)^{-1}``, T without its last row, by the ratios of the recurrence."""
    if len(diagonal) < 2:
        return float("nan")
    ratio = diagonal[0] - node
    for alpha, beta in zip(diagonal[1:-1], couplings[:-1], strict=True):
        if ratio == 0.0:
            return float("nan")
        ratio = alpha - node - beta * beta / ratio
    return 1.0 / ratio if ratio != 0.0 else float("nan")


def rules_near_zero(diagonal: Array, couplings: Array, zero: Rule) -> list[Rule]:
    """Rules with a node at many distances from zero, where ``zero`` is the rule with a node at zero.

    A node at which most of the mass condenses hardly moves while the others do, so these positions are
    prescribed, also on both sides at once: for functions that are steep at zero, the mass at small distances
    decides.
    """
    index = int(np.abs(zero.nodes).argmin())
    beside = [zero.nodes[i] for i in (index - 1, index + 1) if 0 <= i < len(zero.nodes)]
    found = []
    for share in DISTANCES:
        places = [float(share * node) for node in beside]
        found += [rule_with_node(diagonal, couplings, place) for place in places]
        if len(places) == 2:
            shortest = min(-places[0], places[1])
            found.append(rule_with_nodes(diagonal, couplings, -shortest, shortest))
    return [rule for rule in found if rule is not None]


@dataclass(frozen=True)
class ZeroCell:
    """How the mass that a rule puts at zero is distributed around it.

    What a chain cannot resolve lies in the cell between zero and the middles towards the next nodes. Networks
    have spectra that condense at zero over many orders of magnitude, so the cell's mass ``N(s)`` within
    distance s is continued from larger distances: the local exponent ``b(s) = d log N / d log s`` at the
    cell's edge and its trend further out give

        ``b(s) = b (s/edge)^k``,      ``N(s) = N(edge) exp(-(b/k) (1 - (s/edge)^k))``,

    a power law for k = 0 (a smooth density has b = 1), and for k > 0 an atom at zero with a tail.

    Args:
        left: edge of the cell below zero, <= 0.
        right: edge of the cell above zero, >= 0.
        exponent: b.
        trend: k.
    """

    left: float
    right: float
    exponent: float
    trend: float

    @classmethod
    def around(cls, rule: Rule, index: int) -> ZeroCell:
        """The cell of a rule's node ``index``, the one at zero, from the nodes and weights beside it."""
        mass, edges = [float(rule.weights[index])], []
        for ring in range(1, 4):
            middles = []
            for side in (-1, 1):
                outer, inner = index + side * ring, index + side * (ring - 1)
                if 0 <= outer < len(rule.nodes) and 0 <= inner < len(rule.nodes):
                    middles.append(abs(0.5 * (rule.nodes[outer] + rule.nodes[inner])))
            if not middles:
                break
            edges.append(float(np.mean(middles)))
            beside = [j for j in (index - ring, index + ring) if 0 <= j < len(rule.nodes)]
            mass.append(mass[-1] + float(rule.weights[beside].sum()))
        left = -edges[0] if index > 0 else 0.0
        right = edges[0] if index + 1 < len(rule.nodes) else 0.0
        exponents = [
            max(float(np.log(mass[k + 1] / mass[k]) / np.log(edges[k + 1] / edges[k])), 1e-4)
            for k in range(len(edges) - 1)
            if edges[k + 1] > edges[k] > 0 and mass[k] > 0
        ]
        if not exponents:
            return cls(left, right, 1.0, 0.0)
        # For an exact power law the first exponent of a rule is too high by 7 %, and by 9 % above the second.
        flat = max(1 - exponents[0], 0.0)
        exponent, trend = min(exponents[0] * (1 - 0.07 * flat), 1.0), 0.0
        if len(exponents) > 1 and exponent < 1:
            ratio = exponents[1] / exponents[0] * (1 + 0.09 * flat)
            slope = float(np.log(ratio) / np.log(np.sqrt(edges[2] / edges[0])))
            # A fall of the exponent towards zero says that there is an atom, and goes on faster. A rise goes
            # on for some scales only. Both factors were chosen on the seven networks of
            # benchmarks/coverage.py.
            trend = min(3 * slope, 3.0) if slope > 0 else max(0.15 * slope, -3.0)
        return cls(left, right, exponent, trend)

    def points(self) -> Array:
        """Points of equal weight that stand for the distribution, by quantiles of N."""
        shares = (np.arange(CELL_NODES) + 0.5) / CELL_NODES
        if abs(self.trend) > 1e-6:
            inner = np.maximum(1 + self.trend / self.exponent * np.log(shares), 0.0)
            distances = np.zeros_like(inner)
            positive = inner > 0
            distances[positive] = np.exp(np.log(inner[positive]) / self.trend)
        else:
            distances = np.exp(np.log(shares) / self.exponent)
        sides = [edge for edge in (self.left, self.right) if edge != 0.0]
        return np.concatenate([edge * distances for edge in sides]) if sides else np.zeros(1)
