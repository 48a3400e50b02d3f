"""Intervals for means of quadratic forms, which are mixtures of chi-squares rather than normal.

A mean over k independent Gaussian probes is ``p^T A p -> sum_i w_i X_i`` with ``k X_i ~ chi²_k``. Many
weights of one size make it normal; one weight makes it as skewed as it can be. Which of the two holds is
what few probes can't tell, so the intervals cover both: a t-interval, made for the first, misses the second
in up to a third of all cases.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import stats

from .estimate import Array, Estimate, t_quantile

LOW, HIGH = 0.025, 0.975
NORMAL = 1.959963984540054
REPLICATES = 4000


def mean_factor(k: int) -> float:
    """Half width of the interval of ``tr B`` from a mean of k forms ``p^T B p``, in units of ``||B||_F``.

    ``||B||_F`` is itself estimated, by the mean of ``||B p||²``. With one eigenvalue lambda the form's mean
    is ``lambda x`` and the norm's estimate ``lambda sqrt(x)``, ``k x ~ chi²_k``, so that
    ``|1 - x| / sqrt(x)`` at the quantiles of x covers; with many, ``1.96 sqrt(2 / k)`` does, which is less.

    >>> round(mean_factor(32), 3), round(1.96 * (2 / 32) ** 0.5, 3)
    (0.567, 0.49)
    """
    low, high = stats.chi2.ppf([LOW, HIGH], k) / k
    return float(max((1 - low) / math.sqrt(low), (high - 1) / math.sqrt(high), NORMAL * math.sqrt(2 / k)))


def square_factors(k: int) -> tuple[float, float]:
    """How far ``tr A``, A >= 0, may lie below and above its estimate, in units of ``||A||_F``.

    The norm is estimated by the Gram matrix of the probes; with one eigenvalue it equals the estimate of
    ``tr A``, ``lambda x``. With many, the estimate is normal, and the norm's own error is allowed for.
    """
    low, high = stats.chi2.ppf([LOW, HIGH], k) / k
    pairs = max(k * (k + 1) // 2 - 1, 1)
    normal = NORMAL * math.sqrt(2 / k) * math.sqrt(pairs / stats.chi2.ppf(0.05, pairs))
    return float(max(1 - 1 / high, normal)), float(max(1 / low - 1, normal))


def cube_factor(k: int) -> float:
    """Half width of the interval of ``tr B³``, in units of ``(tr B⁴)^(3/4)``, for one eigenvalue."""
    found = []
    for x in stats.chi2.ppf([LOW, HIGH], k) / k:
        y = k * x * x / (k + 2)
        found.append(abs(1 - y) / y**0.75)
    return float(max(found))


def fourth_factor(k: int) -> float:
    """What the estimate of ``tr B⁴`` must be multiplied by to be an upper bound, for one eigenvalue."""
    x = stats.chi2.ppf(LOW, k) / k
    return float((k + 2) / (k * x * x))


@lru_cache(maxsize=64)
def pivot_quantiles(n: int) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of ``sqrt(n) (mean - 1) / s`` for n samples of chi²_1, simulated once."""
    draws = np.random.default_rng(n).chisquare(1, (REPLICATES, n))
    pivots = math.sqrt(n) * (draws.mean(1) - 1) / draws.std(1, ddof=1)
    low, high = np.quantile(pivots, [LOW, HIGH])
    return float(low), float(high)


def mean_of_forms(name: str, samples: Array, *, positive: bool = True, bias: float = 0.0) -> Estimate:
    """The mean of samples of a quadratic form, with an interval that holds for one eigenvalue as for many.

    Args:
        name: of the row.
        samples: shape ``(n,)``.
        positive: the form is positive semi-definite, so that only its large values can be unseen.
        bias: a bound on a common error of the samples, such as rounding.

    Example:
        >>> found = mean_of_forms("form", np.array([1.0, 2.0, 3.0, 6.0]))
        >>> found.value, found.ci_high - found.value > found.value - found.ci_low
        (3.0, True)
    """
    n = len(samples)
    value, error = float(samples.mean()), float(samples.std(ddof=1)) / math.sqrt(n)
    quantile = t_quantile(n - 1)
    up = max(quantile, -pivot_quantiles(n)[0])
    down = quantile if positive else up
    low = value - math.hypot(down * error, bias)
    high = value + math.hypot(up * error, bias)
    std_error = math.hypot(error, bias / quantile)
    converged = bool(max(high - value, value - low) <= 0.05 * abs(value))
    return Estimate(name, value, std_error, low, high, converged=converged)
