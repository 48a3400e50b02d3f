"""PowerSums: tr A, tr A², tr A³ of a matrix known by its Gram matrices with Gaussian probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .chi_square import NORMAL, cube_factor, fourth_factor, mean_factor, square_factors
from .estimate import Array


@dataclass(frozen=True)
class Bounded:
    """A value between two bounds of a 95 % interval."""

    low: float
    value: float
    high: float

    def __add__(self, other: Bounded | float) -> Bounded:
        if not isinstance(other, Bounded):
            return Bounded(self.low + other, self.value + other, self.high + other)
        return Bounded(self.low + other.low, self.value + other.value, self.high + other.high)

    def times(self, factor: float) -> Bounded:
        """The interval times a number of either sign."""
        ends = (factor * self.low, factor * self.high)
        return Bounded(min(ends), factor * self.value, max(ends))

    def widened(self, by: float) -> Bounded:
        """Both ends moved out."""
        return Bounded(self.low - by, self.value, self.high + by)


@dataclass(frozen=True)
class GramBlock:
    """``P^T P``, ``P^T A P`` and ``P^T A² P`` of one block of probes, the columns of P."""

    zeroth: Array
    first: Array
    second: Array


class PowerSums:
    """Estimates from k Gaussian probes p_j in D dimensions, one product ``A p_j`` each.

        tr A  = mean p^T A p,       tr A² = mean ||A p||²,
        tr A³ = E[(p^T A p')(p^T A² p')],   tr A⁴ = E[(p^T A² p')²],     p, p' independent

    The last two are taken as those functions of the Gram matrices that do not change when the probes are
    rotated among each other. ``A`` is centred, ``A = b I + A_0``, so that a multiple of the identity is
    exact. The variances are ``2 ||A||_F² / k`` and so on: of these, too, the Gram matrices hold estimates,
    which are far better than the scatter of k numbers. For the widths of the intervals see chi_square.py.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal((16, 3))
        >>> block = GramBlock(rows @ rows.T, 2 * rows @ rows.T, 4 * rows @ rows.T)  # A = 2 I
        >>> sums = PowerSums([block], 3)
        >>> round(sums.trace().value, 9), round(sums.square().value, 9), round(sums.cube().value, 9)
        (6.0, 12.0, 24.0)
    """

    def __init__(self, blocks: Sequence[GramBlock], dimension: int) -> None:
        self.blocks = list(blocks)
        self.dimension = dimension
        self.count = sum(len(block.zeroth) for block in blocks)
        self._size = sum(float(np.trace(block.zeroth)) for block in blocks)
        #: (k + 2)(k - 1) of each block, the expectation's factor of the invariant forms below
        self._pairs = sum((len(b.zeroth) + 2) * (len(b.zeroth) - 1) for b in blocks)
        self._mean = sum(float(np.trace(block.first)) for block in blocks) / self._size
        self._mean_square = sum(float(np.trace(block.second)) for block in blocks) / self._size

    def trace(self) -> Bounded:
        """``tr A``."""
        spread = max(self._mean_square - self._mean**2, 0.0) * self._size / self.count
        return self._around(self.dimension * self._mean, mean_factor(self.count) * math.sqrt(spread))

    def square(self) -> Bounded:
        """``tr A²``."""
        below, above = square_factors(self.count)
        total = 0.0
        for block in self.blocks:
            centred = block.second - self._mean_square * block.zeroth
            total += float((centred**2).sum())
        norm = math.sqrt(self._over_pairs(total))
        value = self.dimension * self._mean_square
        return Bounded(max(value - below * norm, 0.0), value, value + above * norm)

    def cube(self) -> Bounded:
        """``tr A³``."""
        third, second, fourth = 0.0, 0.0, 0.0
        for first, squares in self._centred():
            k = len(first)
            third += float((first * squares).sum()) - float(np.trace(first) * np.trace(squares)) / k
            second += float(np.trace(squares)) / self.count
            fourth += float((squares**2).sum()) - float(np.trace(squares)) ** 2 / k
        value, fourth = third / max(self._pairs, 1), self._over_pairs(fourth)
        pairs = max(self.count * (self.count + 1) // 2 - 1, 1)
        inflation = pairs / float(stats.chi2.ppf(0.05, pairs))
        normal = NORMAL * inflation * math.sqrt(2 * (second * fourth + value**2)) / max(self.count - 1, 1)
        half = math.hypot(cube_factor(self.count) * fourth**0.75, normal)
        b, d = self._mean, self.dimension
        rest = self.square().times(3 * b) + self.trace().times(-3 * b * b) + b**3 * d
        return rest + Bounded(value - half, value, value + half)

    def fourth_bound(self) -> float:
        """An upper 97.5 % bound of ``tr A⁴``, and so of the fourth power of the largest |eigenvalue|."""
        total = 0.0
        for block in self.blocks:
            squares = block.second
            total += float((squares**2).sum()) - float(np.trace(squares)) ** 2 / len(squares)
        return self._over_pairs(total) * fourth_factor(self.count)

    def fourth(self) -> float:
        """The estimate of ``tr A⁴`` itself."""
        return self.fourth_bound() / fourth_factor(self.count)

    def range(self) -> tuple[float, float]:
        """The extreme Rayleigh quotients of A on the span of each block's probes: inside its spectrum."""
        low, high = math.inf, -math.inf
        for block in self.blocks:
            values, vectors = np.linalg.eigh(block.zeroth)
            kept = values > 1e-6 * max(values.max(initial=0.0), 1e-300)
            root = vectors[:, kept] / np.sqrt(values[kept])
            if root.shape[1]:
                found = np.linalg.eigvalsh(root.T @ block.first @ root)
                low, high = min(low, float(found[0])), max(high, float(found[-1]))
        return low, high

    def _centred(self) -> list[tuple[Array, Array]]:
        b, found = self._mean, []
        for block in self.blocks:
            first = block.first - b * block.zeroth
            squares = block.second - 2 * b * block.first + b * b * block.zeroth
            found.append((first, squares))
        return found

    def _over_pairs(self, total: float) -> float:
        return max(total, 0.0) / self._pairs if self._pairs else math.inf

    @staticmethod
    def _around(value: float, half: float) -> Bounded:
        return Bounded(value - half, value, value + half)
