"""Granulated Kendall: does the measure follow the gap along each single axis of the grid?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

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
        agree = seed[:, None] == seed[None, :]
        for other, code in codes.items():
            same = code[:, None] == code[None, :]
            agree &= ~same if other == name else same
        first, second = np.nonzero(np.triu(agree, 1))
        signs = np.sign(left[first] - left[second]) * np.sign(right[first] - right[second])
        size = cluster_count(configuration)
        place = (configuration[first], configuration[second])
        sums, pairs = np.zeros((size, size)), np.zeros((size, size))
        np.add.at(sums, place, signs)
        np.add.at(pairs, place, 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = quadratic(counts, sums) / quadratic(counts, pairs)
        found[name] = summarise_draws(values, len(left), size)
        if np.isfinite(values[0]):  # an axis along which no two runs can be compared says nothing
            totals.append(values)
    if totals:
        found["mean"] = summarise_draws(np.mean(totals, axis=0), len(left), cluster_count(configuration))
    return found
