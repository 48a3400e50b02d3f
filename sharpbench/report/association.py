"""Does one number order the runs like another? Kendall, Spearman, Pearson.

Runs that share an optimizer or a condition are not independent evidence. Intervals come from a permutation
test and a bootstrap that move whole optimizers and whole conditions (:mod:`~sharpbench.report.layout`,
:mod:`~sharpbench.report.bootstrap`, :func:`~sharpbench.report.evidence.intervals`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from ..errors import must_be
from .evidence import Association, intervals
from .layout import Layout, codes_of, crossed, grouped
from .numbers import linear_evidence, pearson_scores, spearman_scores
from .rank_pairs import kendall_evidence
from .sample import Sample


def kendall(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> Association:
    """Kendall's tau-b: (concordant - discordant) / sqrt(pairs untied in x · pairs untied in y).

    ``clusters`` says which runs are not independent: one label a run, or one pair (optimizer, condition)
    a run, when runs that share either of the two are not. A condition may itself be a tuple, of the values
    of several axes. Runs with a non-finite x or y are left out.

    Raises:
        InvalidInput: the lengths differ.

    >>> kendall([1, 2, 3, 4], [1, 3, 2, 4], "abcd").value
    0.666...
    """
    return intervals([kendall_evidence(_sample(x, y, clusters))])[0]


def kendall_within(
    x: Sequence[float], y: Sequence[float], strata: Sequence[Hashable], clusters: Sequence[Hashable]
) -> Association:
    """Kendall's tau-b over the pairs of runs in the same stratum (condition) only.

    Over all runs, a condition that moves both numbers (label noise moves the gap, whatever the
    sharpness) can hide a relation that holds in every condition, or feign one that holds in none.
    ``clusters`` as in :func:`kendall`; all runs of a cluster, or of a pair, lie in the same stratum,
    otherwise the runs of a cluster in one stratum are a cluster of their own, crossed with the stratum.

    >>> kendall_within([1, 2, 8, 9], [5, 6, 1, 2], "aabb", "pqrs").value
    1.0
    """
    if len(strata) != len(x):
        raise must_be("x and strata", "equally long", (len(x), len(strata)))
    sample = _sample(x, y, clusters, strata)
    return intervals([kendall_evidence(sample, codes_of(strata)[sample.kept])])[0]


def spearman(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> Association:
    """Spearman's rho: Pearson's correlation of the mid-ranks. ``clusters`` as in :func:`kendall`.

    >>> round(spearman([1, 2, 3, 4], [1, 3, 2, 4], "abcd").value, 12)
    0.8
    """
    return intervals([linear_evidence(_sample(x, y, clusters), spearman_scores)])[0]


def pearson(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> Association:
    """Pearson's product-moment correlation. ``clusters`` as in :func:`kendall`.

    >>> round(pearson([1, 2, 3], [2, 4, 6], "abc").value, 12)
    1.0
    """
    return intervals([linear_evidence(_sample(x, y, clusters), pearson_scores)])[0]


def _sample(
    x: Sequence[float],
    y: Sequence[float],
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
) -> Sample:
    if not len(x) == len(y) == len(clusters):
        raise must_be("x, y and clusters", "equally long", (len(x), len(y), len(clusters)))
    left, right = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(left) & np.isfinite(right))
    labels = [clusters[int(place)] for place in kept]
    within = None if strata is None else [strata[int(place)] for place in kept]
    return Sample(left[kept], right[kept], _layout(labels, within), kept)


def _layout(labels: list[Hashable], strata: list[Hashable] | None) -> Layout:
    if labels and all(isinstance(label, tuple) and len(label) == 2 for label in labels):
        return crossed(*zip(*labels, strict=True))
    if strata is None:
        return grouped(labels, [0] * len(labels))
    if len(set(zip(labels, strata, strict=True))) == len(set(labels)):
        return grouped(labels, strata)
    return crossed(labels, strata)
