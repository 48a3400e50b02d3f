"""The runs that enter a coefficient: both numbers, their layout, and what errors of measurement do to x."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .bootstrap import Codes, Floats
from .layout import Layout


@dataclass(frozen=True)
class Sample:
    """x and y of the same runs.

    Attributes:
        x: one value a run, finite.
        y: one value a run, finite.
        layout: which runs share an optimizer and a condition.
        kept: the places of these runs among those that were asked for.
        redrawn: (draws, runs): x drawn again within its error of measurement; without errors x itself.
    """

    x: Floats
    y: Floats
    layout: Layout
    kept: Codes
    redrawn: Floats = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def draws_of_x(self) -> Floats:
        """(draws, runs): what x may have been, at least one row."""
        return self.redrawn if len(self.redrawn) else self.x[None, :]

    @property
    def has_errors(self) -> bool:
        """Whether the values of x are uncertain."""
        return len(self.redrawn) > 0

    def shares(self) -> list[Floats]:
        """The bootstrap weights of the cells, dealt out to the draws of x; row 0, the data, left out."""
        return np.array_split(self.layout.weights[1:], len(self.draws_of_x))
