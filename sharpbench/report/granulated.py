"""Granulated Kendall: does the measure follow the gap along each single axis of the grid?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import must_be
from .bootstrap import Codes, Floats, quadratic
from .evidence import Association, Evidence, intervals, no_evidence
from .layout import codes_of, crossed
from .pairs import rearranged
from .sample import Sample

MEAN = "mean"


def granulated_kendall(
    x: Sequence[float],
    y: Sequence[float],
    axes: Mapping[str, Sequence[Hashable]],
    seeds: Sequence[Hashable],
) -> dict[str, Association]:
    """Granulated Kendall psi per axis, and their mean Psi under the key ``"mean"``.

    For one axis, only pairs of runs that differ in that axis and agree in every other axis and in the
    seed are compared: psi = mean of sign(x_i - x_j) sign(y_i - y_j) over those pairs. On a complete grid
    this is the average over the settings of the other axes of Kendall's tau within each (Jiang et al.
    2019, "Fantastic generalization measures", eqs. 1, 6, 7). A measure that follows the gap only because
    one axis (say, label noise) drives both has a high tau and a low psi along the other axes.

    Intervals move whole optimizers and whole conditions, seeds kept together. The axis called
    ``"optimizer"`` (without one, the first axis) is the optimizer; the others make up the condition.

    Args:
        x: the measure, one value a run.
        y: the generalization gap, one value a run.
        axes: axis name -> one value a run; axes with a single value are left out.
        seeds: one value a run.

    Raises:
        InvalidInput: the lengths differ.

    >>> noise, method = [0, 0, 1, 1], ["sgd", "sam"] * 2
    >>> found = granulated_kendall([1, 2, 5, 6], [2, 1, 6, 5], {"noise": noise, "optimizer": method}, [0] * 4)
    >>> {axis: link.value for axis, link in found.items()}
    {'noise': 1.0, 'optimizer': -1.0, 'mean': 0.0}
    """
    lengths = (len(x), len(y), len(seeds), *(len(values) for values in axes.values()))
    if len(set(lengths)) > 1:
        raise must_be("x, y, seeds and the axes", "equally long", lengths)
    varied = {name: values for name, values in axes.items() if len(set(values)) > 1}
    if not varied:
        return {}
    first = "optimizer" if "optimizer" in varied else next(iter(varied))
    others = [values for name, values in varied.items() if name != first]
    left, right = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(left) & np.isfinite(right))
    conditions = list(zip(*others, strict=True)) if others else [()] * len(x)
    layout = crossed([varied[first][int(i)] for i in kept], [conditions[int(i)] for i in kept])
    sample = Sample(left[kept], right[kept], layout, kept)
    codes = {name: codes_of(values)[kept] for name, values in varied.items()}
    found = granulated_evidence(sample, codes, codes_of(seeds)[kept])
    return {axis: intervals([evidence])[0] for axis, evidence in found.items()}


def granulated_evidence(sample: Sample, axes: Mapping[str, Codes], seeds: Codes) -> dict[str, Evidence]:
    """Psi along each axis (one code a run), and their mean."""
    found: dict[str, Evidence] = {}
    for name in axes:
        # Pairs agree in everything but this axis: they are looked for among the runs that do.
        others = [seeds, *(code for other, code in axes.items() if other != name)]
        groups = codes_of(list(zip(*(code.tolist() for code in others), strict=True)))
        found[name] = _along(sample, *_pairs(groups, axes[name]))
    # An axis along which no two runs can be compared says nothing.
    known = [each for each in found.values() if len(each.permuted)]
    if known:
        found[MEAN] = Evidence(
            value=float(np.mean([each.value for each in known])),
            permuted=np.mean([each.permuted for each in known], axis=0),
            resampled=np.mean([each.resampled for each in known], axis=0),
            runs=known[0].runs,
            clusters=known[0].clusters,
        )
    return found


def _along(sample: Sample, first: Codes, second: Codes) -> Evidence:
    """Psi over the given pairs of runs."""
    layout = sample.layout
    clusters = layout.clusters()
    if not len(first):
        return no_evidence(len(sample.x), clusters)
    # The cell with the smaller number comes first, so that each pair of cells has one entry.
    swap = layout.cells[first] > layout.cells[second]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    size = layout.count
    places, entry = np.unique(layout.cells[first] * size + layout.cells[second], return_inverse=True)
    pairs = places // size, places % size
    counts = np.bincount(entry).astype(np.float64)
    y_signs = np.sign(sample.y[first] - sample.y[second])
    drawn: list[Floats] = [np.sign(x[first] - x[second]) for x in sample.draws_of_x]
    compared = _table(pairs, counts, size)
    resampled = []
    for x_signs, weights in zip(drawn, sample.shares(), strict=True):
        agreement = _table(pairs, np.bincount(entry, x_signs * y_signs), size)
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled.append(quadratic(weights, agreement) / quadratic(weights, compared))
    x_means = np.bincount(entry, np.mean(drawn, axis=0)) / counts
    signs_x = np.full((size, size), np.nan)
    signs_x[pairs], signs_x[pairs[::-1]] = x_means, -x_means
    permuted = rearranged(
        signs_x, np.bincount(entry, y_signs).astype(np.float64), pairs, counts, layout.moves
    )
    x_signs = np.sign(sample.x[first] - sample.x[second])
    return Evidence(
        value=float((x_signs * y_signs).mean()),
        permuted=permuted / len(first),
        resampled=np.concatenate(resampled),
        runs=len(sample.x),
        clusters=clusters,
    )


def _table(pairs: tuple[Codes, Codes], values: NDArray[Any], size: int) -> Floats:
    table = np.zeros((size, size))
    table[pairs] = values
    return table


def _pairs(groups: Codes, axis: Codes) -> tuple[Codes, Codes]:
    """All pairs of runs of the same group that differ in ``axis``."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(groups[order]) != 0, True]) + 1
    first, second = [], []
    for members in np.split(order, ends[:-1]) if len(order) else []:
        one, other = _upper(len(members))
        first.append(members[one])
        second.append(members[other])
    if not first:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    left, right = np.concatenate(first), np.concatenate(second)
    differ = axis[left] != axis[right]
    return left[differ], right[differ]


@lru_cache(maxsize=256)
def _upper(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    # Thousands of groups have few sizes.
    return np.triu_indices(count, 1)
