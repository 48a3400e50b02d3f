"""Resampling optimizers and conditions: how far a coefficient would move with others of them.

Runs that share an optimizer or a condition are not independent evidence. The pigeonhole bootstrap
(Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)) therefore draws optimizers with
replacement, and conditions with replacement: a run counts as often as its optimizer was drawn times as
often as its condition was drawn. No resample is ever written out, since each statistic has an exact form
in those counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

# Enough to place the ends of a 95 % interval to about a hundredth of the coefficient.
DRAWS = 1000
SEED = 0
# Weights of some draws, for all runs: what fits the cache.
DRAWS_BYTES = 2**20


def cluster_counts(first: int, second: int = 1) -> Floats:
    """Weights of the cells of a grid, ``(1 + DRAWS, first · second)``; row 0 is the data as they are.

    The weight of cell (i, j) is how often level i of the first factor was drawn times how often level j
    of the second was drawn. A factor with one level is not resampled.

    >>> cluster_counts(3, 2).shape, cluster_counts(3, 2)[0].tolist()
    ((1001, 6), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    """
    generator = np.random.default_rng(SEED)
    one, other = (_counts(size, generator) for size in (first, second))
    return np.asarray((one[:, :, None] * other[:, None, :]).reshape(1 + DRAWS, first * second))


def _counts(size: int, generator: np.random.Generator) -> Floats:
    drawn = generator.multinomial(size, np.full(size, 1.0 / size), size=DRAWS)
    return np.vstack([np.ones((1, size)), drawn.astype(np.float64)])


def quadratic(counts: Floats, matrix: Floats) -> Floats:
    """The form w' M w for every row w of counts: a sum over the pairs of runs of a resample."""
    return np.asarray(((counts @ matrix) * counts).sum(axis=1))


def by_draws(statistic: Callable[[Floats], Floats], codes: Codes, counts: Floats) -> Floats:
    """The statistic of each draw's weights, some draws at a time: all at once would leave the cache."""
    few = max(1, DRAWS_BYTES // (8 * max(1, len(codes))))
    parts = [statistic(counts[first : first + few][:, codes]) for first in range(0, len(counts), few)]
    return np.concatenate(parts)
