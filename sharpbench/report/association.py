"""Does one number order the runs like another? Kendall, Spearman, Pearson.

Runs of one configuration (same optimizer, same condition, other seeds) are not independent evidence, so
intervals come from a bootstrap that draws whole configurations with replacement. No resample is ever
written out: a draw is a vector of counts per configuration, and each statistic has an exact form in
those counts, so 1000 draws over 1000 runs take tens of milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from .bootstrap import (
    Association,
    Floats,
    cluster_count,
    codes_of,
    columns_of,
    draws,
    quadratic,
    summarise_draws,
)

# Runs compared with all others at once: what fits the cache.
ROWS = 256
# Weights of some draws, for all runs: likewise.
DRAWS_BYTES = 2**20
Statistic = Callable[[Floats, Floats, NDArray[np.intp], Floats], Floats]


def kendall(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> Association:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in x · pairs untied in y).

    Runs with a non-finite x or y are left out. Raises InvalidInput if the lengths differ.

    >>> kendall([1, 2, 3, 4], [1, 3, 2, 4], "abcd").value
    0.666...
    """
    return _bootstrap(_kendall, x, y, clusters)


def kendall_within(
    x: Sequence[float], y: Sequence[float], strata: Sequence[Hashable], clusters: Sequence[Hashable]
) -> Association:
    """Kendall's tau-b over the pairs of runs in the same stratum (condition) only.

    Over all runs, a condition that moves both numbers (label noise moves the gap, whatever the
    sharpness) can hide a relation that holds in every condition, or feign one that holds in none.

    >>> kendall_within([1, 2, 8, 9], [5, 6, 1, 2], "aabb", "pqrs").value
    1.0
    """
    left, right = columns_of(x, y, clusters)
    keep = np.flatnonzero(np.isfinite(left) & np.isfinite(right))
    stratum = codes_of(strata)[keep]

    def statistic(a: Floats, b: Floats, codes: NDArray[np.intp], counts: Floats) -> Floats:
        return _kendall(a, b, codes, counts, stratum)

    return _bootstrap(
        statistic, list(left[keep]), list(right[keep]), [clusters[int(place)] for place in keep]
    )


def spearman(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> Association:
    """Spearman's rho: Pearson's correlation of the mid-ranks.

    >>> round(spearman([1, 2, 3, 4], [1, 3, 2, 4], "abcd").value, 12)
    0.8
    """
    return _bootstrap(_spearman, x, y, clusters)


def pearson(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> Association:
    """Pearson's product-moment correlation.

    >>> round(pearson([1, 2, 3], [2, 4, 6], "abc").value, 12)
    1.0
    """
    return _bootstrap(_pearson, x, y, clusters)


def _bootstrap(
    statistic: Statistic, x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]
) -> Association:
    left, right = columns_of(x, y, clusters)
    keep = np.isfinite(left) & np.isfinite(right)
    codes = codes_of([cluster for cluster, kept in zip(clusters, keep, strict=True) if kept])
    size = cluster_count(codes)
    if keep.sum() < 2:
        return Association(math.nan, math.nan, math.nan, int(keep.sum()), size)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = statistic(left[keep], right[keep], codes, draws(size))
    return summarise_draws(values, int(keep.sum()), size)


def _kendall(
    x: Floats,
    y: Floats,
    codes: NDArray[np.intp],
    counts: Floats,
    strata: NDArray[np.intp] | None = None,
) -> Floats:
    # All ordered pairs of a resample are pairs of original runs, taken w_a · w_b times, so tau-b needs
    # only the sums of sign products between clusters. Each unordered pair is counted once: the factor of
    # two cancels in the ratio.
    size = counts.shape[1]
    sums = np.zeros((3, size, size))
    for members in _members(strata, len(x)):
        # Clusters side by side, so that sums over them are sums over neighbours.
        members = members[np.argsort(codes[members], kind="stable")]
        _add_pairs(sums, _dense_ranks(x[members]), _dense_ranks(y[members]), codes[members])
    agreement, untied_x, untied_y = (quadratic(counts, each) for each in sums)
    return np.asarray(agreement / np.sqrt(untied_x * untied_y))


def _members(strata: NDArray[np.intp] | None, count: int) -> list[NDArray[np.intp]]:
    if strata is None:
        return [np.arange(count)]
    return [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]


def _dense_ranks(values: Floats) -> NDArray[np.int32]:
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _add_pairs(sums: Floats, x: NDArray[np.int32], y: NDArray[np.int32], codes: NDArray[np.intp]) -> None:
    """Add, to ``sums`` (3, clusters, clusters), sign products and untied pairs between clusters.

    By rows of a few hundred runs, in bytes: 10 000 runs have 50 million pairs.
    """
    count = len(x)
    for first in range(0, count, ROWS):
        rows = slice(first, min(first + ROWS, count))
        signs = []
        for ranks in (x, y):
            above = ranks[rows, None] > ranks[None, first:]
            below = ranks[rows, None] < ranks[None, first:]
            sign = above.view(np.int8) - below.view(np.int8)
            # Within these rows every pair would come twice.
            sign[:, : rows.stop - first] = np.triu(sign[:, : rows.stop - first], 1)
            signs.append(sign)
        here = codes[first:]
        starts = np.flatnonzero(np.r_[True, here[1:] != here[:-1]])
        pieces = (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
        for total, piece in zip(sums, pieces, strict=True):
            by_cluster = np.add.reduceat(piece, starts, axis=1, dtype=np.int32)
            np.add.at(total, (codes[rows, None], here[starts][None, :]), by_cluster)


def _pearson(x: Floats, y: Floats, codes: NDArray[np.intp], counts: Floats) -> Floats:
    # Standardised first: a trace of 1e6 squared must not swamp a gap of 0.1.
    x, y = _standard(x), _standard(y)
    return _by_draws(lambda weights: _weighted_correlation(x, y, weights), codes, counts)


def _spearman(x: Floats, y: Floats, codes: NDArray[np.intp], counts: Floats) -> Floats:
    def correlation(weights: Floats) -> Floats:
        return _weighted_correlation(_weighted_ranks(x, weights), _weighted_ranks(y, weights), weights)

    return _by_draws(correlation, codes, counts)


def _by_draws(statistic: Callable[[Floats], Floats], codes: NDArray[np.intp], counts: Floats) -> Floats:
    """The statistic of each draw's weights, some draws at a time: all at once would leave the cache."""
    few = max(1, DRAWS_BYTES // (8 * max(1, len(codes))))
    parts = [statistic(counts[first : first + few][:, codes]) for first in range(0, len(counts), few)]
    return np.concatenate(parts)


def _standard(values: Floats) -> Floats:
    spread = values.std()
    if spread <= 1e-12 * float(np.abs(values).max()):
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / spread)


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """Mid-ranks (less 1/2) of each run in each resample: weight below plus half the weight tied."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    below = np.zeros((weights.shape[0], len(values) + 1))
    np.cumsum(weights[:, order], axis=1, out=below[:, 1:])
    start, end = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((below[:, start] + below[:, end]) / 2.0)


def _weighted_correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    total = weights.sum(axis=1)
    x, y = np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape)
    x = x - (np.einsum("ij,ij->i", weights, x) / total)[:, None]
    y = y - (np.einsum("ij,ij->i", weights, y) / total)[:, None]
    weighted = weights * x
    covariance = np.einsum("ij,ij->i", weighted, y)
    variance_x = np.einsum("ij,ij->i", weighted, x)
    scale = np.sqrt(variance_x * np.einsum("ij,ij,ij->i", weights, y, y))
    # A resample of equal values leaves rounding noise in place of zero variance.
    return np.asarray(np.where(scale > 1e-12 * total, covariance / np.maximum(scale, 1e-300), np.nan))
