"""Kendall's tau-b over all pairs of runs, or over those in the same condition."""

from __future__ import annotations

import numpy as np

from .bootstrap import Codes, Floats, quadratic
from .evidence import Evidence, no_evidence
from .pairs import PairSums, mean_signs, pair_sums, rearranged
from .sample import Sample


def kendall_evidence(sample: Sample, strata: Codes | None = None) -> Evidence:
    """Tau-b, over the pairs of runs in the same stratum if ``strata`` (one code a run) is given."""
    layout, count = sample.layout, len(sample.x)
    clusters = layout.clusters()
    if count < 2:
        return no_evidence(count, clusters)
    groups = (
        [np.arange(count)] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    )
    sums = pair_sums(sample.x, sample.y, layout, groups)
    scale = float(np.sqrt(sums.untied_x.sum() * sums.untied_y.sum()))
    if scale == 0:
        return no_evidence(count, clusters)
    resampled = [
        _tau_b(weights, pair_sums(x, sample.y, layout, groups) if sample.has_errors else sums)
        for x, weights in zip(sample.draws_of_x, sample.shares(), strict=True)
    ]
    return Evidence(
        value=float(sums.agreement.sum()) / scale,
        permuted=_permuted(sample, strata) / scale,
        resampled=np.concatenate(resampled),
        runs=count,
        clusters=clusters,
    )


def _tau_b(weights: Floats, sums: PairSums) -> Floats:
    # Each unordered pair is counted once: the factor of two cancels in the ratio.
    agreement, untied_x, untied_y = (
        quadratic(weights, each) for each in (sums.agreement, sums.untied_x, sums.untied_y)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(agreement / np.sqrt(untied_x * untied_y))


def _permuted(sample: Sample, strata: Codes | None) -> Floats:
    """The sums of sign products for each rearrangement, the seeds of a cell averaged."""
    layout = sample.layout
    sizes = np.bincount(layout.cells, minlength=layout.count).astype(np.float64)
    one, other = np.triu_indices(layout.count, 1)
    compared = (sizes[one] > 0) & (sizes[other] > 0)
    if strata is not None:
        stratum = np.full(layout.count, -1)
        stratum[layout.cells] = strata
        compared &= stratum[one] == stratum[other]
    one, other = one[compared], other[compared]
    weights = sizes[one] * sizes[other]
    signs_x = np.mean([mean_signs(x, layout.cells, layout.count) for x in sample.draws_of_x], axis=0)
    signs_y = mean_signs(sample.y, layout.cells, layout.count)
    return rearranged(signs_x, weights * signs_y[one, other], (one, other), weights, layout.moves)
