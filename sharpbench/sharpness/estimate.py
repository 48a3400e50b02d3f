"""Estimate: a number with its standard error and interval; the jackknife and the t-interval behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

# All rows of one spectral pass are to hold at once with 95 %: the trace, the norm, a functional and both
# ends of the spectrum are five statements, which may each fail with 1 % (Bonferroni).
JOINT_LEVEL = 0.99

# An estimate without a requested tolerance calls itself converged at this relative half width.
DEFAULT_TOLERANCE = 0.05


@dataclass(frozen=True)
class Estimate:
    """One measured value and how far to trust it.

    Args:
        name: the row name in reports.
        value: the point estimate.
        std_error: its standard error (0 for an exact value, nan when unknown).
        ci_low: lower end of the 95 % interval.
        ci_high: upper end of the 95 % interval.
        hvps: Hessian-vector products behind it (a shared pass counts for each of its estimates).
        converged: the half width is within the tolerance asked for (5 % of the value by default).
        note: the convention or the caveat a reader needs, in words.

    Example:
        >>> Estimate.exact("trace", 3.0).contains(3.0)
        True
    """

    name: str
    value: float
    std_error: float
    ci_low: float
    ci_high: float
    hvps: int = 0
    converged: bool = True
    note: str = ""

    @classmethod
    def exact(cls, name: str, value: float, *, hvps: int = 0, note: str = "") -> Estimate:
        """A value without sampling error (rounding aside)."""
        return cls(name, value, 0.0, value, value, hvps, math.isfinite(value), note)

    @classmethod
    def undefined(cls, name: str, note: str, *, hvps: int = 0) -> Estimate:
        """A value that does not exist here, with the reason."""
        nan = math.nan
        return cls(name, nan, nan, nan, nan, hvps, False, note)

    @classmethod
    def lower_bound(cls, name: str, value: float, *, hvps: int = 0, note: str = "") -> Estimate:
        """A value known only to lie at or below the quantity: no standard error, no interval, not converged.

        Example:
            >>> found = Estimate.lower_bound("worst_case", 1.0, note="10 ascent steps")
            >>> found.note, found.converged
            ('lower bound: 10 ascent steps', False)
        """
        nan = math.nan
        return cls(name, value, nan, nan, nan, hvps, False, f"lower bound: {note}" if note else "lower bound")

    @classmethod
    def from_error(
        cls,
        name: str,
        value: float,
        std_error: float,
        degrees: float,
        *,
        bias: float = 0.0,
        hvps: int = 0,
        tolerance: float | None = None,
        note: str = "",
        level: float = 0.95,
    ) -> Estimate:
        """``value ± hypot(t std_error, bias)``: a t-interval of the given level, widened by a bias bound.

        The bias enters the reported standard error too, so that half width = t std_error always holds.
        """
        quantile = t_quantile(degrees, level)
        half = math.hypot(quantile * std_error, bias)
        std_error = half / quantile if bias else std_error
        limit = (DEFAULT_TOLERANCE if tolerance is None else tolerance) * abs(value)
        return cls(name, value, std_error, value - half, value + half, hvps, bool(half <= limit), note)

    @classmethod
    def between(
        cls,
        name: str,
        value: float,
        std_error: float,
        degrees: float,
        below: float,
        above: float,
        *,
        limits: tuple[float, float] = (-math.inf, math.inf),
        hvps: int = 0,
        tolerance: float | None = None,
        note: str = "",
        level: float = JOINT_LEVEL,
    ) -> Estimate:
        """A t-interval with a bias bound on either side: ``below`` and ``above`` the value.

        Args:
            name: the row.
            value: the point estimate.
            std_error: of chance alone.
            degrees: of freedom behind it.
            below: how far the truth may lie below the value for other reasons than chance.
            above: the same above.
            limits: the truth lies between these in any case.
            hvps: products behind it.
            tolerance: relative; the end that lies further off decides ``converged``.
            note: for the reader.
            level: of the t-interval.

        >>> found = Estimate.between("x", 1.0, 0.0, 9, 0.0, 2.0, limits=(0.5, 2.5))
        >>> found.ci_low, found.ci_high, found.converged
        (1.0, 2.5, False)
        """
        quantile = t_quantile(degrees, level)
        low = max(value - math.hypot(quantile * std_error, below), limits[0])
        high = min(value + math.hypot(quantile * std_error, above), limits[1])
        value = min(max(value, limits[0]), limits[1])
        low, high = min(low, value), max(high, value)
        limit = (DEFAULT_TOLERANCE if tolerance is None else tolerance) * abs(value)
        converged = bool(max(high - value, value - low) <= limit)
        return cls(name, value, 0.5 * (high - low) / quantile, low, high, hvps, converged, note)

    @property
    def half_width(self) -> float:
        """Half the length of the 95 % interval."""
        return 0.5 * (self.ci_high - self.ci_low)

    def contains(self, truth: float) -> bool:
        """Whether the 95 % interval covers ``truth``, up to rounding in single precision."""
        slack = 1e-6 * max(abs(self.ci_low), abs(self.ci_high), abs(truth))
        return self.ci_low - slack <= truth <= self.ci_high + slack

    def stretched(self, low: float, high: float, tolerance: float | None = None) -> Estimate:
        """The same value with a longer interval, for an uncertainty that comes on top.

        >>> Estimate.exact("x", 1.0).stretched(0.5, 3.0).half_width
        1.25
        """
        # Half width over standard error stays what it was, a t-quantile.
        ratio = self.half_width / self.std_error if self.std_error > 0 else t_quantile(math.inf)
        limit = (DEFAULT_TOLERANCE if tolerance is None else tolerance) * abs(self.value)
        converged = self.converged and max(high - self.value, self.value - low) <= limit
        error = 0.5 * (high - low) / ratio
        return replace(self, std_error=error, ci_low=low, ci_high=high, converged=converged)

    def renamed(self, name: str) -> Estimate:
        """The same estimate under another row name."""
        return replace(self, name=name)


def t_quantile(degrees: float, level: float = 0.95) -> float:
    """Half the width of Student's central interval of this level: few samples deserve a wide one.

    >>> round(t_quantile(4), 3), round(t_quantile(1e9), 2), round(t_quantile(1e9, 0.99), 2)
    (2.776, 1.96, 2.58)
    """
    return float(special.stdtrit(degrees, 0.5 + 0.5 * level)) if degrees >= 1 else math.inf


def jackknife(statistic: Callable[[NDArray[np.intp]], float], count: int) -> tuple[float, float, float]:
    """Bias-corrected value, standard error and degrees of freedom for ``count`` independent samples.

    ``statistic`` receives the indices that stay. With ``S`` on all and ``S_i`` without the i-th,

        value = n S - (n-1) mean S_i,      std_error^2 = (n-1)/n sum_i (S_i - mean S_i)^2

    (Efron & Stein, 1981): it removes the O(1/n) bias of phi of a mean. The error is itself an estimate; its
    degrees of freedom follow from its own spread (Satterthwaite), ``2n / (kurtosis of S_i - 1)``, at most
    n - 1: fewer for heavy-tailed statistics such as a variance, so that their intervals are wide enough.

    >>> data = np.array([1.0, 2.0, 6.0])
    >>> value, error, degrees = jackknife(lambda kept: float(data[kept].mean()), 3)
    >>> round(value, 12), round(error, 6), round(float(data.std(ddof=1)) / 3**0.5, 6), degrees
    (3.0, 1.527525, 1.527525, 2.0)
    """
    everyone = np.arange(count)
    full = statistic(everyone)
    without = np.array([statistic(np.delete(everyone, i)) for i in range(count)])
    centre = float(without.mean())
    value = count * full - (count - 1) * centre
    spread = without - centre
    second, fourth = float((spread**2).mean()), float((spread**4).mean())
    error = math.sqrt((count - 1) * second)
    excess = fourth / second**2 - 3 if second > 0 else 0.0
    if count > 3:  # a small sample hides its tails: the usual correction (G2)
        excess = (count - 1) / ((count - 2) * (count - 3)) * ((count + 1) * excess + 6)
    degrees = min(count - 1.0, 2 * count / max(excess + 2, 1e-9))
    return value, error, max(degrees, 1.0)
