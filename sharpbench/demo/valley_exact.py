"""The expected number of steps of a walk into the valley, by quadrature instead of simulation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.special import ndtr

from ..errors import unknown_name
from .valley import Valley

Array = NDArray[np.float64]

MEMORYLESS = ("sgd", "ideal_sam", "noisy_sam")


def expected_steps(
    valley: Valley,
    rule: str,
    start: float,
    sigma: float,
    lr: float,
    rho: float,
    horizon: int,
    cells_per_step: float = 5.0,
) -> float:
    """E[min(tau, horizon)], tau the first step at which the walk reaches or passes the minimum at 0.

    A memoryless rule makes the position a Markov chain with a Gaussian (noisy SAM: a mixture of two
    truncated Gaussians) step. The half-line on the side of ``start`` is cut into cells of
    ``lr * sigma / cells_per_step``; cell-to-cell probabilities are differences of the exact distribution
    function, and ``E[min(tau, T)] = sum_{t < T} P(tau > t)`` follows from T sparse products.
    The error falls with the square of the cell width.

    Raises:
        InvalidInput: a rule with memory.

    Example:
        One step of pure noise from next to the minimum crosses half of the time:

        >>> valley = Valley(sharp=1.0, flat=1.0)
        >>> round(expected_steps(valley, "sgd", -1e-9, sigma=1.0, lr=0.1, rho=0.0, horizon=2), 6)
        1.5
    """
    if rule not in MEMORYLESS:
        raise unknown_name("rule without memory", rule, MEMORYLESS)
    step = lr * sigma
    # Beyond the start the slope pulls back, so positions thin out exponentially with this length.
    pull = max(abs(float(valley.slope(start))), 1e-12)
    reach = (
        abs(start) + min(8 * step * math.sqrt(horizon), 20 * lr * sigma**2 / pull) + 10 * step + 2 * rho * lr
    )
    count = max(16, math.ceil(reach * cells_per_step / step))
    edges = np.linspace(0.0, math.copysign(reach, start), count + 1)
    edges.sort()
    middles = (edges[1:] + edges[:-1]) / 2

    def transition(origin: Array) -> Array:
        return np.diff(_distribution(valley, rule, origin[:, None], edges, sigma, lr, rho), axis=1)

    occupied = transition(np.array([start]))[0]
    dense = transition(middles)
    dense[dense < 1e-13] = 0.0  # what is left is a narrow band
    advance = csr_matrix(dense.T)
    total = 1.0
    for _ in range(horizon - 1):
        total += float(occupied.sum())
        occupied = advance @ occupied
    return total


def _distribution(
    valley: Valley, rule: str, x: Array, y: Array, sigma: float, lr: float, rho: float
) -> Array:
    """P(next position <= y | x), shapes broadcast."""

    def threshold(looked_at: Array) -> Array:
        # next <= y exactly when xi >= this
        value: Array = (x - y - lr * valley.slope(looked_at)) / (lr * sigma)
        return value

    slope = valley.slope(x)
    if rule == "sgd":
        return np.asarray(ndtr(-threshold(x)))
    if rule == "ideal_sam":
        return np.asarray(ndtr(-threshold(x + rho * np.sign(slope))))
    turning = -slope / sigma  # sign(g) = +1 exactly when xi is above it
    up = ndtr(-np.maximum(threshold(x + rho), turning))
    down = np.maximum(0.0, ndtr(turning) - ndtr(threshold(x - rho)))
    return np.asarray(up + down)
