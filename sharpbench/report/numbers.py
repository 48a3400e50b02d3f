"""Correlations of numbers or ranks: Pearson and Spearman, with the weights of a resample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .bootstrap import Floats, by_draws
from .evidence import Evidence, no_evidence
from .pairs import compared_alike
from .sample import Sample

# Scores of the runs under weights (draws, runs): either (runs,), the same for all draws, or one row a draw.
Scores = Callable[[Floats, Floats], Floats]


def pearson_scores(values: Floats, weights: Floats) -> Floats:
    """The values, standardised: a trace of 1e6 squared must not swamp a gap of 0.1."""
    spread = values.std()
    if spread <= 1e-12 * float(np.abs(values).max()):
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / spread)


def spearman_scores(values: Floats, weights: Floats) -> Floats:
    """Mid-ranks (less 1/2) of each run in each resample: weight below plus half the weight tied."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    below = np.zeros((weights.shape[0], len(values) + 1))
    np.cumsum(weights[:, order], axis=1, out=below[:, 1:])
    start, end = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((below[:, start] + below[:, end]) / 2.0)


def linear_evidence(sample: Sample, scores: Scores) -> Evidence:
    """The correlation of the scores of x and y."""
    layout, count = sample.layout, len(sample.x)
    clusters = layout.clusters()
    if count < 2:
        return no_evidence(count, clusters)
    ones = np.ones((1, count))
    x, y = (np.broadcast_to(scores(values, ones), (1, count))[0] for values in (sample.x, sample.y))
    value = float(weighted_correlation(x, y, ones)[0])
    if np.isnan(value):
        return no_evidence(count, clusters)
    resampled = [
        by_draws(
            lambda weights, x=x: weighted_correlation(  # type: ignore[misc]
                scores(x, weights), scores(sample.y, weights), weights
            ),
            layout.cells,
            weights,
        )
        for x, weights in zip(sample.draws_of_x, sample.shares(), strict=True)
    ]
    drawn = [np.broadcast_to(scores(values, ones), (1, count))[0] for values in sample.draws_of_x]
    return Evidence(
        value=value,
        permuted=_permuted(sample, np.mean(drawn, axis=0), y) / (count * x.std() * y.std()),
        resampled=np.concatenate(resampled),
        runs=count,
        clusters=clusters,
    )


def _permuted(sample: Sample, x: Floats, y: Floats) -> Floats:
    """Sums of products of centred cell means for each rearrangement, weighted by the runs of a cell."""
    layout = sample.layout
    sizes = np.bincount(layout.cells, minlength=layout.count).astype(np.float64)
    occupied = np.flatnonzero(sizes)
    runs = np.maximum(sizes, 1.0)
    mean_x, mean_y = (np.bincount(layout.cells, scores, minlength=layout.count) / runs for scores in (x, y))
    moved = layout.moves[:, occupied]
    # Without a run, no value: such a cell has no part in that rearrangement.
    weights = sizes[occupied] * (sizes[moved] > 0)
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        centred_y = mean_y[occupied] - ((weights @ mean_y[occupied]) / total)[:, None]
        coefficients = [
            np.where(total > 0, (weights * values * centred_y).sum(axis=1) * sizes.sum() / total, 0.0)
            for values in (mean_x[moved], mean_x[occupied])
        ]
    return coefficients[0] if (weights == sizes[occupied]).all() else compared_alike(*coefficients)


def weighted_correlation(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's correlation for each row of weights (draws, runs)."""
    total = weights.sum(axis=1)
    x, y = np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = x - (np.einsum("ij,ij->i", weights, x) / total)[:, None]
        y = y - (np.einsum("ij,ij->i", weights, y) / total)[:, None]
        weighted = weights * x
        covariance = np.einsum("ij,ij->i", weighted, y)
        variance_x = np.einsum("ij,ij->i", weighted, x)
        scale = np.sqrt(variance_x * np.einsum("ij,ij,ij->i", weights, y, y))
        # A resample of equal values leaves rounding noise in place of zero variance.
        return np.asarray(np.where(scale > 1e-12 * total, covariance / np.maximum(scale, 1e-300), np.nan))
