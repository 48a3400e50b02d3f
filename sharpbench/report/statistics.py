"""What a few seeds can say: t-intervals, paired differences, Holm's correction, detectable differences.

Intervals are Student's t, not percentile bootstrap: with five seeds the bootstrap's nominal 95 % covers
about 84 %. A number that can't be computed (one seed, no variance) is ``nan`` in the data and a dash
wherever it is shown; nothing here warns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from ..errors import must_be

NAN = math.nan
# A spread below this share of the values' size is rounding, not variance: 0.9 - 0.8 and 0.7 - 0.6 differ
# in the 17th digit, and a t-test of that would be "significant" at p = 1e-16.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """A sample's mean with its 95 % (or other) t-interval. ``low`` and ``high`` are nan when n < 2."""

    n: int
    mean: float
    std: float
    low: float
    high: float
    median: float

    @property
    def half_width(self) -> float:
        """Half the interval's width; nan without an interval."""
        return (self.high - self.low) / 2.0


@dataclass(frozen=True)
class Paired:
    """A paired comparison: ``treatment - reference`` over the seeds that both finished."""

    n: int
    difference: float
    low: float
    high: float
    std: float
    p: float
    effect_size: float


def _finite(values: Iterable[float]) -> NDArray[np.float64]:
    array = np.asarray(list(values), dtype=np.float64)
    return array[np.isfinite(array)]


def _spread(values: NDArray[np.float64], scale: float) -> float:
    """Sample standard deviation (n - 1), with rounding noise set to exactly zero."""
    if len(values) < 2:
        return NAN
    spread = float(values.std(ddof=1))
    return 0.0 if spread <= ROUNDING * scale else spread


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Mean, standard deviation, median and ``mean ± t_{(1+c)/2, n-1} s / sqrt(n)``.

    Non-finite values are left out (a run without the number). One value has no interval; values
    without spread have an interval of width zero.

    Raises:
        InvalidInput: ``confidence`` outside (0, 1).

    >>> found = mean_interval([1.0, 2.0, 3.0])
    >>> found.n, found.mean, round(found.half_width, 4)
    (3, 2.0, 2.4841)
    >>> mean_interval([0.7]).low
    nan
    """
    if not 0 < confidence < 1:
        raise must_be("confidence", "between 0 and 1", confidence)
    sample = _finite(values)
    n = len(sample)
    if n == 0:
        return Interval(0, NAN, NAN, NAN, NAN, NAN)
    mean = float(sample.mean())
    std = _spread(sample, float(np.abs(sample).max()))
    half = critical_t(confidence, n - 1) * std / math.sqrt(n) if n > 1 else NAN
    return Interval(n, mean, std, mean - half, mean + half, float(np.median(sample)))


def median_with_failures(values: Iterable[float], failures: int) -> float:
    """The median of the values and of ``failures`` runs that are worse than any value.

    -inf where the median run failed (for an even number: where one of the two in the middle did); nan
    without values and failures. Non-finite values are left out.

    >>> median_with_failures([97.0, 98.0, 99.0], 0), median_with_failures([97.0, 98.0, 99.0], 1)
    (98.0, 97.5)
    >>> median_with_failures([97.0, 98.0], 3)
    -inf
    """
    ordered: list[float] = [-math.inf] * failures + sorted(_finite(values).tolist())
    if not ordered:
        return NAN
    lower, upper = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return lower if math.isinf(lower) else (lower + upper) / 2.0


def paired_difference(
    treatment: Sequence[float], reference: Sequence[float], confidence: float = 0.95
) -> Paired:
    """Paired t-test of two equally long sequences, entry by entry (the same seed in the same condition).

    With d_i = treatment_i - reference_i: the mean of d, its t-interval, the two-sided p-value of
    ``mean(d) = 0``, and :func:`hedges_g`. Pairs with a non-finite entry are left out. Differences
    without spread allow no t-test: p is 1 if they are all zero and nan otherwise (three equal
    differences are three, not an infinitely sure fact).

    Raises:
        InvalidInput: the two differ in length.

    >>> found = paired_difference([3.0, 4.0, 6.0], [1.0, 3.0, 3.0])
    >>> found.difference, round(found.p, 4)
    (2.0, 0.0742)
    """
    if len(treatment) != len(reference):
        raise must_be("treatment and reference", "equally long", (len(treatment), len(reference)))
    left, right = np.asarray(treatment, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    both = np.isfinite(left) & np.isfinite(right)
    left, right = left[both], right[both]
    differences = left - right
    n = len(differences)
    if n == 0:
        return Paired(0, NAN, NAN, NAN, NAN, NAN, NAN)
    mean = float(differences.mean())
    std = _spread(differences, float(max(np.abs(left).max(), np.abs(right).max())))
    if n == 1:
        return Paired(1, mean, NAN, NAN, NAN, NAN, NAN)
    if std == 0.0:
        zero = abs(mean) <= ROUNDING * float(np.abs(left).max())
        return Paired(n, mean, mean, mean, 0.0, 1.0 if zero else NAN, 0.0 if zero else NAN)
    error = std / math.sqrt(n)
    half = critical_t(confidence, n - 1) * error
    p = 2.0 * float(special.stdtr(n - 1, -abs(mean) / error))
    return Paired(n, mean, mean - half, mean + half, std, p, hedges_g(mean / std, n))


def hedges_g(cohen_d: float, n: int) -> float:
    """Paired Cohen's d (mean / standard deviation of the differences) without its small-sample bias.

    g = d · Γ(m/2) / (sqrt(m/2) Γ((m-1)/2)), m = n - 1 (Hedges 1981, eq. 6e); about d (1 - 3/(4m - 1)).
    With two pairs the factor is 0 and g says nothing: nan.

    >>> round(hedges_g(1.0, 5), 4)
    0.7979
    """
    m = n - 1
    if m < 2:
        return NAN
    return cohen_d * math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(m / 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: ``max_{j<=i} min(1, (m - j + 1) p_(j))`` over the sorted p-values.

    Controls the probability of one or more false findings in the family (Holm 1979). A nan stays nan
    but still counts in m, so that a diverged run does not make the other comparisons look surer.

    >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    m = len(p_values)
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [NAN] * m
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (m - rank) * p))
        adjusted[index] = largest
    return adjusted


def critical_t(confidence: float, df: int) -> float:
    """Two-sided critical value of Student's t with ``df`` degrees of freedom.

    >>> round(critical_t(0.95, 2), 4)
    4.3027
    """
    return float(special.stdtrit(df, 0.5 + confidence / 2.0))


def _rejection_probability(noncentrality: float, threshold: float, df: int) -> float:
    """P(|T'| > threshold), T' = (Z + noncentrality) / sqrt(chi2_df / df), averaged over a grid of Z.

    scipy's noncentral t returns nan in just the range that few seeds and many comparisons need.
    """
    z = np.linspace(-9.0, 9.0, 4001)
    numerator = z + noncentrality
    below = special.chdtr(df, df * np.square(numerator / threshold))  # P(sqrt(chi2/df) < |num| / threshold)
    density = np.exp(-0.5 * np.square(z)) / math.sqrt(2.0 * math.pi)
    return float((below * density).sum()) * float(z[1] - z[0])


@lru_cache(maxsize=4096)
def _standardized_detectable(n: int, alpha: float, power: float) -> float:
    df = n - 1
    threshold = critical_t(1.0 - alpha, df)
    # P(reject) grows with the noncentrality; the bracket is doubled until it holds the wanted power.
    end = threshold + 4.0
    while _rejection_probability(end, threshold, df) < power:
        end *= 2.0
    found = optimize.brentq(lambda c: _rejection_probability(c, threshold, df) - power, 0.0, end, xtol=1e-6)
    return float(found) / math.sqrt(n)


def detectable_difference(std: float, n: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true difference that a paired t-test with ``n`` pairs finds with this ``power``.

    Solves P(|T'| > t_{1-alpha/2, n-1}) = power for the noncentral t with noncentrality
    delta sqrt(n) / std; ``std`` is the standard deviation of the paired differences, and the result has
    its units. nan when fewer than two pairs exist or ``std`` is nan.

    Raises:
        InvalidInput: ``alpha`` or ``power`` outside (0, 1), or power not above alpha.

    >>> round(detectable_difference(1.0, 10), 3)
    0.996
    """
    if not 0 < alpha < power < 1:
        raise must_be("alpha and power", "0 < alpha < power < 1", (alpha, power))
    if n < 2 or math.isnan(std):
        return NAN
    return std * _standardized_detectable(n, alpha, power)


def combined_error(values: Iterable[float], errors: Iterable[float]) -> float:
    """Standard error of the mean of measured values that each carry a standard error.

    The scatter s/sqrt(n) of measured values already holds both the spread over seeds and the error of
    measurement; it is used unless the propagated measurement error sqrt(sum e_i^2)/n is larger (which a
    lucky draw of few seeds can give). A missing error counts as 0 (an exact value); one exact value
    alone has no error: nan.

    >>> combined_error([1.0, 1.0], [0.3, 0.4])
    0.25
    """
    value, error = np.asarray(list(values), dtype=np.float64), np.asarray(list(errors), dtype=np.float64)
    known = np.isfinite(value)
    value, error = value[known], error[known]
    n = len(value)
    measured = error[np.isfinite(error)]
    propagated = float(np.sqrt(np.square(measured).sum())) / n if len(measured) else NAN
    scatter = float(value.std(ddof=1)) / math.sqrt(n) if n > 1 else NAN
    return float(np.fmax(propagated, scatter))
