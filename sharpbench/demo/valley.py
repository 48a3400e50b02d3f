"""A smooth one-dimensional valley with a sharper and a flatter slope, and noisy walks into it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from ..errors import must_be, unknown_name

Array = NDArray[np.float64]

RULES = ("sgd", "ideal_sam", "noisy_sam", "vasso_0.9", "vasso_0.1")


@dataclass(frozen=True)
class Valley:
    """An asymmetric valley: slope -a far to the left, +b far to the right, a bend of width w between.

        f(x)  = (b - a) x / 2 + (a + b) (w/2) log( cosh((x - c)/w) / cosh(c/w) )
        f'(x) = (b - a) / 2 + (a + b)/2 tanh((x - c)/w),        c = -(w/2) log(a/b),

    convex, with f(0) = f'(0) = 0 the minimum. Asymmetric in the sense of He et al. 2019 (arXiv 1902.00744):
    the loss rises a/b times faster to the left.

    Example:
        >>> valley = Valley(sharp=2.0, flat=0.5, width=1.0)
        >>> float(valley.slope(0.0)), float(valley.slope(-50.0)), float(valley.slope(50.0))
        (0.0, -2.0, 0.5)
    """

    sharp: float = 2.0
    flat: float = 0.5
    width: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sharp", "flat", "width"):
            if not getattr(self, name) > 0:
                raise must_be(name, "> 0", getattr(self, name))

    @property
    def bend(self) -> float:
        """c, where the curvature is largest: on the sharper side."""
        return -0.5 * self.width * math.log(self.sharp / self.flat)

    def loss(self, x: ArrayLike) -> Array:
        """f(x) >= 0, elementwise."""
        x = np.asarray(x, dtype=np.float64)
        z = (x - self.bend) / self.width
        # log cosh z, without overflow for large |z|.
        log_cosh = np.logaddexp(z, -z) - math.log(2.0)
        start = math.log(math.cosh(self.bend / self.width))
        value: Array = (self.flat - self.sharp) / 2 * x + (self.sharp + self.flat) * self.width / 2 * (
            log_cosh - start
        )
        return value

    def slope(self, x: ArrayLike) -> Array:
        """f'(x), elementwise."""
        x = np.asarray(x, dtype=np.float64)
        # The constant is written by the value of tanh at 0, so that f'(0) is exactly zero.
        turn = np.tanh((x - self.bend) / self.width) - np.tanh(-self.bend / self.width)
        value: Array = (self.sharp + self.flat) / 2 * turn
        return value


@dataclass(frozen=True)
class Walks:
    """Walks of one rule.

    Attributes:
        position: x over time, shape ``(steps + 1, n)``.
        wrong: whether each look went downhill along f, shape ``(steps, n)``.
    """

    position: Array
    wrong: NDArray[np.bool_]

    def first_crossing(self) -> Array:
        """Steps until the minimum at 0 is first reached or passed; ``steps`` if it is not. Shape ``(n,)``."""
        start = self.position[0]
        crossed = (self.position[1:] * np.sign(start)) <= 0
        steps = len(crossed)
        return np.where(crossed.any(0), crossed.argmax(0) + 1, steps).astype(np.float64)


def wrong_sign_probability(valley: Valley, x: ArrayLike, sigma: float) -> Array:
    """P(sign g != sign f'(x)) = Phi(-|f'(x)| / sigma) for g = f'(x) + sigma xi, xi ~ N(0, 1).

    In one dimension SAM's perturbation is rho sign(g), so this is all that noise can do to it:
    Phi(-sqrt(SNR)) with SNR = f'(x)^2 / sigma^2.

    >>> valley = Valley()
    >>> float(wrong_sign_probability(valley, 0.0, sigma=1.0))
    0.5
    """
    probability: Array = ndtr(-np.abs(valley.slope(x)) / sigma)
    return probability


def expected_slope(valley: Valley, rule: str, x: ArrayLike, sigma: float, rho: float) -> Array:
    """The mean gradient that a rule descends along at x, over the noise of one mini-batch.

    SGD: f'(x). Ideal SAM: f'(x + rho s), s = sign f'(x). Noisy SAM: (1 - p) f'(x + rho s) +
    p f'(x - rho s), p the probability of the wrong sign: as p goes to 1/2 SAM becomes a two-point random
    smoothing of f, whose slope is *smaller* than f' wherever the slope flattens out uphill.

    Raises:
        InvalidInput: a rule with memory (VaSSO), whose mean depends on the past.
    """
    x = np.asarray(x, dtype=np.float64)
    if rule == "sgd":
        return valley.slope(x)
    sign = np.sign(valley.slope(x))
    uphill = valley.slope(x + rho * sign)
    if rule == "ideal_sam":
        return uphill
    if rule != "noisy_sam":
        raise unknown_name("rule without memory", rule, ("sgd", "ideal_sam", "noisy_sam"))
    wrong = wrong_sign_probability(valley, x, sigma)
    # At the minimum itself there is no uphill side: both signs are equally likely.
    other = valley.slope(x - np.where(sign == 0, 0.0, rho * sign))
    mixed: Array = (1 - wrong) * uphill + wrong * other
    at_rest = (valley.slope(x + rho) + valley.slope(x - rho)) / 2
    return np.where(sign == 0, at_rest, mixed)


def walk(valley: Valley, rule: str, start: float, noise: Array, lr: float, rho: float) -> Walks:
    """Walk n times by one rule, ``x <- x - lr (f'(x + e) + noise_t)``: both passes see the same mini-batch.

    - ``sgd``: e = 0.
    - ``ideal_sam``: e = rho sign(f'(x)), from the noise-free gradient.
    - ``noisy_sam``: e = rho sign(g), g = f'(x) + noise_t. InfoSAM is the same rule here: in one dimension
      its C is a positive number, which the normalisation removes.
    - ``vasso_THETA``: e = rho sign(d), d <- (1 - theta) d + theta g, d_0 = g_0.

    Args:
        noise: the noise of each step and walk, shape ``(steps, n)``; share it between rules to pair them.

    Raises:
        InvalidInput: an unknown rule.
    """
    if rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    theta = float(rule.removeprefix("vasso_")) if rule.startswith("vasso_") else 1.0
    steps, n = noise.shape
    position = np.empty((steps + 1, n))
    position[0] = start
    wrong = np.zeros((steps, n), dtype=bool)
    memory = np.zeros(n)
    for t in range(steps):
        x = position[t]
        here = valley.slope(x)
        if rule == "sgd":
            there = here
        else:
            g = here + noise[t]
            memory = g if t == 0 else (1 - theta) * memory + theta * g
            sign = np.sign(here) if rule == "ideal_sam" else np.sign(memory)
            wrong[t] = sign * here < 0
            there = valley.slope(x + rho * sign)
        position[t + 1] = x - lr * (there + noise[t])
    return Walks(position, wrong)
