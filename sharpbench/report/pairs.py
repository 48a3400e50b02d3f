"""Statistics that compare runs by pairs: sums of signs between the cells of a layout.

A resample or a rearrangement of whole cells needs no run again. All pairs of runs of a bootstrap resample
are pairs of original runs, taken w_a · w_b times, so that the sums of sign products between cells
suffice; and a rearrangement moves the mean sign of x between two cells to two other cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bootstrap import DRAWS_BYTES, Codes, Floats
from .layout import Layout

# Runs compared with all others at once: what fits the cache.
ROWS = 256


@dataclass(frozen=True)
class PairSums:
    """Sums over pairs of runs between cells, each unordered pair once.

    Attributes:
        agreement: (cells, cells): sum of sign(x_i - x_j) · sign(y_i - y_j).
        untied_x: (cells, cells): pairs with different x.
        untied_y: (cells, cells): pairs with different y.
    """

    agreement: Floats
    untied_x: Floats
    untied_y: Floats


def pair_sums(x: Floats, y: Floats, layout: Layout, groups: Sequence[NDArray[np.intp]]) -> PairSums:
    """Over all pairs of runs within the same group (the condition, or all runs)."""
    size = layout.count
    sums = np.zeros((3, size, size))
    for members in groups:
        # Cells side by side, so that sums over them are sums over neighbours.
        members = members[np.argsort(layout.cells[members], kind="stable")]
        _add_pairs(sums, _dense_ranks(x[members]), _dense_ranks(y[members]), layout.cells[members])
    return PairSums(*sums)


def _dense_ranks(values: Floats) -> NDArray[np.int32]:
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _add_pairs(sums: Floats, x: NDArray[np.int32], y: NDArray[np.int32], codes: Codes) -> None:
    """Add, to ``sums`` (3, cells, cells), sign products and untied pairs between cells.

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
            by_cell = np.add.reduceat(piece, starts, axis=1, dtype=np.int32)
            np.add.at(total, (codes[rows, None], here[starts][None, :]), by_cell)


def mean_signs(values: Floats, cells: Codes, count: int) -> Floats:
    """(cells, cells): the mean of sign(v_i - v_j) over runs i of one cell and j of another; nan if none.

    >>> mean_signs(np.array([1.0, 3.0, 2.0]), np.array([0, 0, 1]), 2).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    sizes = np.bincount(cells, minlength=count).astype(np.float64)
    order = np.argsort(values, kind="stable")
    # How many runs of each cell lie among the first k: (runs + 1, cells).
    among = np.zeros((len(values) + 1, count), dtype=np.int32)
    among[np.arange(1, len(values) + 1), cells[order]] = 1
    np.cumsum(among, axis=0, out=among)
    ordered = values[order]
    below = among[np.searchsorted(ordered, values, "left")]
    up_to = among[np.searchsorted(ordered, values, "right")]
    sums = np.zeros((count, count))
    np.add.at(sums, cells, below + up_to - sizes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / np.outer(sizes, sizes))


def rearranged(
    signs_x: Floats, sums_y: Floats, pairs: tuple[Codes, Codes], weights: Floats, moves: Codes
) -> Floats:
    """For each rearrangement, the sum over pairs of cells of (mean sign of x) · (sum of signs of y).

    Args:
        signs_x: (cells, cells), the mean signs of x; nan where a cell has no runs.
        sums_y: the sum of signs of y for each pair of cells.
        pairs: the two cells of each pair.
        weights: how many pairs of runs each pair of cells holds. Where a rearrangement gives a cell the
            values of a cell without runs, its pairs are left out, and the sum is scaled up by the weights
            of those that remain (:func:`compared_alike`).
        moves: (rearrangements, cells), as in :class:`~sharpbench.report.layout.Layout`.
    """
    size = signs_x.shape[0]
    known = np.isfinite(signs_x)
    complete = bool(known.all())
    flat = np.where(known, signs_x, 0.0).ravel()
    present = known.ravel().astype(np.float64)
    # One row a cell, so that looking up a cell copies neighbours.
    moved = np.ascontiguousarray(moves.T)
    totals, left, unmoved = np.zeros((3, len(moves)))
    products = np.where(known, signs_x, 0.0)[pairs] * sums_y
    few = max(1, DRAWS_BYTES // (8 * len(moves)))
    for start in range(0, len(weights), few):
        some = slice(start, start + few)
        places = moved[pairs[0][some]] * size
        places += moved[pairs[1][some]]
        totals += sums_y[some] @ flat.take(places)
        if not complete:
            there = present.take(places)
            left += weights[some] @ there
            unmoved += products[some] @ there
    if complete:
        return totals
    scale = np.divide(weights.sum(), left, out=np.zeros(len(left)), where=left > 0)
    return compared_alike(totals * scale, unmoved * scale)


def compared_alike(moved: Floats, unmoved: Floats) -> Floats:
    """Coefficients of rearrangements as if each had the data's own cells.

    A rearrangement of an incomplete grid compares fewer cells than the data do, since it gives some cells
    the values of cells without runs. It is fair to compare it to the data over the same cells only:
    ``moved`` and ``unmoved`` are the coefficients of rearrangement and data over those. What the data
    gain or lose by the other cells is added to the size of the rearrangement's coefficient.

    >>> compared_alike(np.array([0.5, -0.2, 0.1]), np.array([0.5, 0.4, 0.6])).tolist()
    [0.5, -0.3, 0.0]
    """
    size = np.abs(moved) + abs(unmoved[0]) - np.abs(unmoved)
    return np.asarray(np.round(np.where(moved < 0, -1.0, 1.0) * np.maximum(size, 0.0), 12))
