"""Resampling whole configurations: the draws, as counts, and the interval they give.

Runs of one configuration (same optimizer, same condition, other seeds) are not independent evidence, so
configurations are drawn with replacement. No resample is ever written out: a draw is a vector of counts
per configuration, and each statistic has an exact form in those counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import must_be

Floats = NDArray[np.float64]

# Enough to place the ends of a 95 % interval to about a hundredth of the coefficient.
DRAWS = 1000
SEED = 0
# With fewer configurations a bootstrap has too few distinct draws to speak of 95 %.
FEWEST_CLUSTERS = 5


@dataclass(frozen=True)
class Association:
    """A coefficient in [-1, 1] and its 95 % interval; nan where it can't be computed."""

    value: float
    low: float
    high: float
    runs: int
    clusters: int

    @property
    def shows_a_link(self) -> bool:
        """The interval exists and leaves out zero."""
        return self.low > 0 or self.high < 0


def columns_of(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Both as arrays. Raises InvalidInput unless all three are equally long."""
    if not len(x) == len(y) == len(clusters):
        raise must_be("x, y and clusters", "equally long", (len(x), len(y), len(clusters)))
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


def codes_of(values: Sequence[Hashable]) -> NDArray[np.intp]:
    """0, 1, 2 … in order of first appearance."""
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(value, len(index)) for value in values], dtype=np.intp)


def cluster_count(codes: NDArray[np.intp]) -> int:
    """How many different codes there are."""
    return int(codes.max()) + 1 if len(codes) else 0


@lru_cache(maxsize=4)
def draws(clusters: int) -> Floats:
    """Row 0: the data as they are. Rows 1 … DRAWS: how often each cluster was drawn."""
    if clusters == 0:
        return np.ones((1, 0))
    generator = np.random.default_rng(SEED)
    drawn = generator.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=DRAWS)
    return np.vstack([np.ones((1, clusters)), drawn.astype(np.float64)])


def summarise_draws(values: Floats, runs: int, clusters: int) -> Association:
    """Value from the data, percentile interval from the draws in which the statistic exists."""
    point = float(values[0]) if np.isfinite(values[0]) else math.nan
    usable = values[1:][np.isfinite(values[1:])]
    if clusters < FEWEST_CLUSTERS or math.isnan(point) or len(usable) < DRAWS // 2:
        return Association(point, math.nan, math.nan, runs, clusters)
    low, high = np.percentile(usable, [2.5, 97.5])
    if low == high:
        # Every pair agrees, in every draw: that is all the data can say, not a certainty of zero width.
        return Association(point, math.nan, math.nan, runs, clusters)
    return Association(point, float(low), float(high), runs, clusters)


def quadratic(counts: Floats, matrix: Floats) -> Floats:
    """The form w' M w for every row w of counts: a sum over the pairs of runs of a resample."""
    return np.asarray(((counts @ matrix) * counts).sum(axis=1))
