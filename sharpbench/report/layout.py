"""Which runs share an optimizer and a condition, and the rearrangements that absence of a link allows.

If sharpness and gap are independent of each other, the sharpness of one optimizer could as well have
belonged to another one: giving all runs of each optimizer the sharpness of another optimizer's runs, and
all runs of each condition that of another condition's, leaves the joint distribution as it is, whatever
effects optimizers, conditions and seeds have. That makes a permutation test exact with any number of
optimizers and conditions, where a bootstrap needs many of both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import SEED, Codes, Floats, cluster_counts

# The data as they are, and so many rearrangements; if no more than ALL exist, every one of them.
REARRANGEMENTS = 999
ALL = 2000
# Tries to find rearrangements of an incomplete grid of conditions.
TRIES = 5000


@dataclass(frozen=True)
class Layout:
    """Runs in the cells of a grid of two factors (optimizer, condition).

    Attributes:
        cells: the cell of each run, ``first · sizes[1] + second``.
        sizes: the number of levels of both factors; (clusters, 1) if there is only one.
        moves: (rearrangements, cells): the cell whose values each cell is given. Row 0 changes nothing.
    """

    cells: Codes
    sizes: tuple[int, int]
    moves: Codes

    @property
    def count(self) -> int:
        """The number of cells, occupied or not."""
        return self.sizes[0] * self.sizes[1]

    @cached_property
    def weights(self) -> Floats:
        """The bootstrap weights of the cells, one row a draw (:func:`cluster_counts`)."""
        return cluster_counts(*self.sizes)

    def of(self, keep: NDArray[Any]) -> Layout:
        """The same grid with only the runs ``keep`` (an index or a mask)."""
        kept = Layout(self.cells[keep], self.sizes, self.moves)
        kept.__dict__["weights"] = self.weights
        return kept

    def clusters(self) -> int:
        """How many cells hold a run."""
        return len(np.unique(self.cells))


def codes_of(values: Sequence[Hashable]) -> Codes:
    """0, 1, 2 … in order of first appearance."""
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(value, len(index)) for value in values], dtype=np.intp)


def crossed(first: Sequence[Hashable], second: Sequence[Hashable]) -> Layout:
    """Runs by optimizer and condition.

    A condition that is a tuple stands for the values of several axes. Conditions that share the value of
    an axis are not exchangeable with the others, so the values of each axis are exchanged instead, in all
    conditions at once. Where the axes do not form a complete grid, only those exchanges are used that
    lead from planned conditions to planned conditions.

    >>> layout = crossed(["sgd", "sam"] * 2, [0, 0, 1, 1])
    >>> layout.sizes, layout.cells.tolist(), layout.moves.tolist()
    ((2, 2), [0, 2, 1, 3], [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
    """
    one, other = codes_of(first), codes_of(second)
    rows, labels = max(1, len(set(first))), list(dict.fromkeys(second)) or [()]
    generator = np.random.default_rng(SEED)
    columns = _condition_moves(labels, generator)
    if columns is not None and math.factorial(rows) * len(columns) <= ALL:
        orders = np.array(list(itertools.permutations(range(rows))), dtype=np.intp)
        row_moves = np.repeat(orders, len(columns), axis=0)
        column_moves = np.tile(columns, (len(orders), 1))
    else:
        row_moves = _shuffles(rows, generator)
        column_moves = (
            _shuffles(len(labels), generator)
            if columns is None
            else columns[np.r_[0, generator.integers(len(columns), size=REARRANGEMENTS)]]
        )
    moves = row_moves[:, :, None] * len(labels) + column_moves[:, None, :]
    cells = one * len(labels) + other
    return Layout(cells, (rows, len(labels)), moves.reshape(len(moves), rows * len(labels)))


def grouped(clusters: Sequence[Hashable], blocks: Sequence[Hashable]) -> Layout:
    """Runs by one label; clusters are exchanged only within their block (each lies in one block)."""
    codes = codes_of(clusters)
    size = len(set(clusters))
    block = np.zeros(max(1, size), dtype=np.intp)
    block[codes] = codes_of(blocks)
    members = [np.flatnonzero(block == each) for each in np.unique(block)]
    generator = np.random.default_rng(SEED)
    if math.prod(math.factorial(len(group)) for group in members) <= ALL:
        orders = itertools.product(*(itertools.permutations(group) for group in members))
        moved = [np.concatenate(order) for order in orders]
    else:
        shuffled = ([generator.permutation(group) for group in members] for _ in range(REARRANGEMENTS))
        moved = [np.concatenate(order) for order in itertools.chain([members], shuffled)]
    moves = np.empty((len(moved), max(1, size)), dtype=np.intp)
    moves[:, np.concatenate(members)] = moved
    return Layout(codes, (max(1, size), 1), moves)


def _shuffles(size: int, generator: np.random.Generator) -> Codes:
    rows = np.tile(np.arange(size), (1 + REARRANGEMENTS, 1))
    rows[1:] = generator.permuted(rows[1:], axis=1)
    return rows


def _condition_moves(labels: Sequence[Hashable], generator: np.random.Generator) -> Codes | None:
    """The rearrangements of the conditions, the identity first; None stands for all orders, if many."""
    axes = _axes(labels)
    if len(axes) < 2:
        if math.factorial(len(labels)) > ALL:
            return None
        return np.array(list(itertools.permutations(range(len(labels)))), dtype=np.intp)
    place = {values: index for index, values in enumerate(zip(*axes, strict=True))}
    found: dict[tuple[int, ...], None] = {}
    for orders in _axis_orders([int(axis.max()) + 1 for axis in axes], generator):
        changed = zip(*(order[axis] for order, axis in zip(orders, axes, strict=True)), strict=True)
        moved = tuple(place.get(values, -1) for values in changed)
        if -1 not in moved:
            found[moved] = None
    return np.array(list(found), dtype=np.intp)


def _axes(labels: Sequence[Hashable]) -> list[Codes]:
    """One code per condition for each axis; axes that change together with another one are left out."""
    if not labels or not all(isinstance(label, tuple) for label in labels):
        return [np.arange(len(labels))]
    distinct = {tuple(codes_of(values).tolist()): None for values in zip(*labels, strict=True)}
    return [np.array(axis, dtype=np.intp) for axis in distinct if max(axis) > 0]


def _axis_orders(sizes: list[int], generator: np.random.Generator) -> Iterator[tuple[Codes, ...]]:
    if math.prod(math.factorial(size) for size in sizes) <= TRIES:
        orders = [[np.array(o) for o in itertools.permutations(range(size))] for size in sizes]
        yield from itertools.product(*orders)
        return
    yield tuple(np.arange(size) for size in sizes)
    for _ in range(TRIES):
        yield tuple(generator.permutation(size) for size in sizes)
