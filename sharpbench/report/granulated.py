"""Granulated Kendall: does the measure follow the gap along each single axis of the grid?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Association, cluster_count, codes_of, columns_of, draws, quadratic, summarise_draws


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

    Intervals resample configurations (all axes' values), seeds kept together.

    Args:
        x: the measure, one value a run.
        y: the generalization gap, one value a run.
        axes: axis name -> one value a run; axes with a single value are left out.
        seeds: one value a run.

    >>> noise, method = [0, 0, 1, 1], ["sgd", "sam"] * 2
    >>> found = granulated_kendall([1, 2, 5, 6], [2, 1, 6, 5], {"noise": noise, "optimizer": method}, [0] * 4)
    >>> {axis: link.value for axis, link in found.items()}
    {'noise': 1.0, 'optimizer': -1.0, 'mean': 0.0}
    """
    left, right = columns_of(x, y, seeds)
    varied = {name: values for name, values in axes.items() if len(set(values)) > 1}
    codes = {name: codes_of(values) for name, values in varied.items()}
    keep = np.isfinite(left) & np.isfinite(right)
    left, right = left[keep], right[keep]
    codes = {name: code[keep] for name, code in codes.items()}
    seed = codes_of(seeds)[keep]
    configuration = codes_of(list(zip(*codes.values(), strict=True))) if codes else np.zeros(len(left), int)
    counts = draws(cluster_count(configuration))
    found: dict[str, Association] = {}
    totals = []
    for name in codes:
        # Pairs agree in everything but this axis: they are looked for among the runs that do.
        others = [seed, *(code for other, code in codes.items() if other != name)]
        first, second = _pairs(codes_of(list(zip(*others, strict=True))), codes[name])
        signs = np.sign(left[first] - left[second]) * np.sign(right[first] - right[second])
        size = cluster_count(configuration)
        place = configuration[first] * size + configuration[second]
        pairs = np.bincount(place, minlength=size * size)
        sums = np.bincount(place, signs, minlength=size * size)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.divide(*(quadratic(counts, _table(each, size)) for each in (sums, pairs)))
        found[name] = summarise_draws(values, len(left), size)
        if np.isfinite(values[0]):  # an axis along which no two runs can be compared says nothing
            totals.append(values)
    if totals:
        found["mean"] = summarise_draws(np.mean(totals, axis=0), len(left), cluster_count(configuration))
    return found


def _pairs(groups: NDArray[np.intp], axis: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
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


def _table(flat: NDArray[Any], size: int) -> NDArray[np.float64]:
    return flat.reshape(size, size).astype(np.float64)


@lru_cache(maxsize=256)
def _upper(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    # Thousands of groups have few sizes.
    return np.triu_indices(count, 1)
