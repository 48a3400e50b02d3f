"""Bounds on log det(I + A) from power sums of A and bounds on its eigenvalues."""

from __future__ import annotations

import math
from itertools import product

from .estimate import Array
from .power_sums import Bounded, PowerSums

# Probability that an end of the spectrum lies beyond the Lanczos bound.
RISK = 0.0125


def log_det_bounds(sums: PowerSums, bottom: float, top: float) -> Bounded:
    """``log det(I + A) = sum log(1 + mu)`` with mu in ``[bottom, top]``; unbounded below if bottom <= -1.

    The intersection of three bounds, with ``p_k = tr A^k``:

        p_1 - p_2 c_2(bottom)                       <= . <=  p_1 - p_2 c_2(top)
        p_1 - p_2/2 + p_3/3 - p_4 c_4(bottom)       <= . <=  p_1 - p_2/2 + p_3/3 - p_4 c_4(top)
        Gauss-Radau rule of d, p_1, p_2, node bottom  <= . <=  the same with node top

    where ``c_k(x) = |log(1 + x) - Taylor polynomial of degree k - 1| / x^k`` decreases in x; the third is
    due to Bai & Golub (1996), "Bounds for the trace of the inverse and the determinant". Each takes the
    corners of the intervals of the power sums.
    """
    low_seen, high_seen = sums.range()
    point = _point(sums, min(low_seen, -1e-12), max(high_seen, 1e-12))
    lows, highs = [-math.inf], [math.inf]
    first, second, third, fourth = sums.trace(), sums.square(), sums.cube(), sums.fourth_bound()
    if bottom > -1:
        lows.append(first.low - second.high * remainder(2, bottom))
        lows.append(first.low - second.high / 2 + third.low / 3 - fourth * remainder(4, bottom))
        if bottom < first.low / sums.dimension:
            lows.append(min(_radau(sums.dimension, a, b, bottom) for a, b in _corners(first, second)))
    highs.append(first.high - second.low * remainder(2, top))
    highs.append(first.high - second.low / 2 + third.high / 3)
    if top > first.high / sums.dimension:
        highs.append(max(_radau(sums.dimension, a, b, top) for a, b in _corners(first, second)))
    low, high = max(lows), min(highs)
    if low > high:  # the intervals of the power sums contradict each other: take what both allow
        low, high = high, low
    # The middle of what was seen, or, where that has no finite value, the upper bound.
    return Bounded(low, min(max(point, low), high) if math.isfinite(point) else high, high)


def remainder(order: int, x: float) -> float:
    """``|log(1 + x) - sum_{k < order} (-1)^(k+1) x^k / k| / |x|^order``, for an even order.

    >>> round(remainder(2, 1e-9), 6), round(remainder(2, 1.0), 6)
    (0.5, 0.306853)
    """
    if abs(x) < 1e-2:
        return sum((-x) ** k / (order + k) for k in range(8))
    series = sum((-1) ** (k + 1) * x**k / k for k in range(1, order))
    return float((series - math.log1p(x)) / x**order)


def lanczos_bounds(values: Array, steps: int, d: int) -> float:
    """How far beyond the extreme Ritz values of a chain the spectrum may reach, with probability 1 - RISK.

    From a start uniform on the sphere, ``P(lambda_1 - theta_1 > e (lambda_1 - lambda_d)) <= 1.648 sqrt(d)
    exp(-sqrt(e) (2m - 1))`` after m steps (Kuczynski & Wozniakowski 1992, Theorem 4.2), and likewise below.
    Infinite where m steps are too few to say anything.
    """
    if steps < 2:
        return math.inf
    share = (math.log(1.648 * math.sqrt(d) / RISK) / (2 * steps - 1)) ** 2
    if share >= 0.49:
        return math.inf
    return float(share * (values.max() - values.min()) / (1 - 2 * share))


def _point(sums: PowerSums, bottom: float, top: float) -> float:
    """The middle of the two rules whose nodes are the extremes seen."""
    first, second = sums.trace().value, sums.square().value
    low = _radau(sums.dimension, first, second, max(bottom, -1 + 1e-9))
    high = _radau(sums.dimension, first, second, top)
    return 0.5 * (low + high) if math.isfinite(low) else high


def _corners(first: Bounded, second: Bounded) -> list[tuple[float, float]]:
    return list(product((first.low, first.high), (second.low, second.high)))


def _radau(d: int, first: float, second: float, node: float) -> float:
    """The Gauss-Radau rule for log(1 + x) of d points with the given first two power sums."""
    mean = first / d
    variance = max(second / d - mean * mean, 0.0)
    gap = mean - node
    if abs(gap) < 1e-12 * (1 + abs(mean)):
        return d * math.log1p(mean) if mean > -1 else -math.inf
    other = mean + variance / gap
    weight = d * variance / (variance + gap * gap)
    if other <= -1 or node <= -1:
        return -math.inf
    return weight * math.log1p(node) + (d - weight) * math.log1p(other)
