"""From resampled coefficients to intervals that hold for a whole family of measures at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import Floats

LEVEL = 0.05
# A coefficient that varies less over the rearrangements does so by rounding.
ROUNDING = 1e-9
LARGEST = 1.0 - 1e-12

TOO_FEW = "too few optimizers and conditions: no arrangement of them would be significant"
NO_SPREAD = "one of the two numbers hardly varies"
NO_VALUE = "no coefficient can be computed"


@dataclass(frozen=True)
class Association:
    """A coefficient in [-1, 1] and its 95 % interval; nan where it can't be computed.

    Attributes:
        value: the coefficient over the runs.
        low: lower end of the interval; nan without an interval.
        high: upper end.
        runs: how many runs took part.
        clusters: how many different clusters (pairs of optimizer and condition) they form.
        p: the permutation test's p-value, corrected for the family of measures; nan without an interval.
        reason: why there is no interval; empty if there is one.
    """

    value: float
    low: float
    high: float
    runs: int
    clusters: int
    p: float = math.nan
    reason: str = ""

    @property
    def shows_a_link(self) -> bool:
        """The interval exists and leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Evidence:
    """A coefficient with its distribution without a link, and its spread.

    Attributes:
        value: the coefficient over the runs.
        permuted: the coefficient of the cells' means for each rearrangement of the layout; entry 0 is
            that of the data. The seeds of a cell are averaged, so that it depends on sharpness and gap
            only through what is exchangeable.
        resampled: the coefficient for each bootstrap draw.
        runs: how many runs.
        clusters: how many cells hold one.
    """

    value: float
    permuted: Floats
    resampled: Floats
    runs: int
    clusters: int

    @property
    def spread(self) -> float:
        """Root mean square over the rearrangements; nan without a coefficient."""
        if not len(self.permuted) or not np.isfinite(self.permuted).all() or not math.isfinite(self.value):
            return math.nan
        return float(np.sqrt(np.square(self.permuted).mean()))


def no_evidence(runs: int, clusters: int) -> Evidence:
    """Where no coefficient exists."""
    return Evidence(math.nan, np.empty(0), np.empty(0), runs, clusters)


def intervals(family: Sequence[Evidence]) -> list[Association]:
    """Simultaneous 95 % intervals of all coefficients of the family, from the same rearrangements.

    The p-value of one coefficient is the share of rearrangements whose coefficient is at least as large
    in absolute value. The smallest p-value over the family has its own distribution over the
    rearrangements (Westfall and Young 1993, minP); its 5 % quantile is the level at which each
    coefficient is tested, so that without any link the probability of one or more findings in the family
    is at most 5 %. With c the largest absolute coefficient that is not significant at that level, the
    interval is the union of

    - coefficient ± c on Fisher's scale (atanh), and
    - the 95 % percentile interval of the bootstrap, not corrected: it is there for what the permutation
      test does not see, such as a coefficient that differs between conditions,

    cut to [-1, 1]. So it leaves out zero only if the corrected permutation test is significant.
    """
    usable = [place for place, each in enumerate(family) if each.spread > ROUNDING]
    sizes = [_rounded(np.abs(family[place].permuted)) for place in usable]
    shares = [_share_at_least(size) for size in sizes]
    smallest = np.min(shares, axis=0) if usable else np.empty(0)
    # At most 5 % of all rearrangements, the data among them, have a smaller p-value somewhere.
    level = float(np.sort(smallest)[math.floor(LEVEL * len(smallest))]) if usable else math.nan
    found = [_without(each, NO_VALUE if math.isnan(each.value) else NO_SPREAD) for each in family]
    for place, size, share in zip(usable, sizes, shares, strict=True):
        each, significant = family[place], share < level
        if not significant.any():
            found[place] = _without(each, TOO_FEW)
            continue
        critical = float(size[~significant].max())
        p = float((smallest <= share[0]).mean())
        found[place] = _with(each, critical, bool(significant[0]), p)
    return found


def _rounded(values: Floats) -> Floats:
    """Equal up to rounding is equal: the same sum in another order must not count as larger."""
    return np.asarray(np.round(values, 10))


def _share_at_least(values: Floats) -> Floats:
    """For each value the share of values that are at least as large."""
    ordered = np.sort(values)
    return np.asarray((len(values) - np.searchsorted(ordered, values, "left")) / len(values))


def _with(each: Evidence, critical: float, significant: bool, p: float) -> Association:
    low, high = _by_permutation(each, critical, significant)
    drawn = each.resampled[np.isfinite(each.resampled)]
    if len(drawn):
        ends = np.quantile(drawn, [LEVEL / 2.0, 1.0 - LEVEL / 2.0])
        low, high = min(low, float(ends[0])), max(high, float(ends[1]))
    return Association(each.value, max(low, -1.0), min(high, 1.0), each.runs, each.clusters, p)


def _by_permutation(each: Evidence, critical: float, significant: bool) -> tuple[float, float]:
    """The value ± the critical value, on Fisher's scale, where a coefficient's error hardly depends on it."""
    value, tested = each.value, float(each.permuted[0])
    size = abs(value)
    if significant and tested * value > 0:
        # The critical value holds for the coefficient of the cells; this is its share of that of the runs.
        reach = critical * size / abs(tested)
    else:
        reach = min(max(critical, size), LARGEST)
    # A perfect coefficient would be infinite on Fisher's scale, and its error zero.
    centre = math.atanh(min(size, 1.0 - 2.0 * (1.0 - reach) / max(4, each.clusters)))
    low, high = (math.tanh(centre + sign * math.atanh(reach)) for sign in (-1.0, 1.0))
    high = max(high, size)
    return (low, high) if value >= 0 else (-high, -low)


def _without(each: Evidence, reason: str) -> Association:
    return Association(each.value, math.nan, math.nan, each.runs, each.clusters, reason=reason)
