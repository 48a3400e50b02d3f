"""One look per optimizer, the same in every figure: colour and marker fill.

No thirty colours can be told apart, least of all by the colour-blind. So ten hues (Petroff 2021,
arXiv 2107.02270, chosen for colour-vision deficiencies) are combined with three fills: thirty looks.
The baseline is always dark grey, so that everything else is seen against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BASELINE_COLOUR = "#4d4d4d"
# The eight hues among Petroff's ten (his two greys would be taken for the baseline), then a blue and a
# teal found by search: all eleven colours stay 18 apart in CIELAB, also without red or green cones.
HUES = (
    "#3f90da",
    "#e76300",
    "#832db6",
    "#ffa90e",
    "#bd1f01",
    "#92dadd",
    "#a96b59",
    "#b9ac70",
    "#4646f0",
    "#418ba0",
)
Fill = Literal["full", "open", "ring"]
FILLS: tuple[Fill, ...] = ("full", "open", "ring")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")


@dataclass(frozen=True)
class Look:
    """How one optimizer is drawn."""

    colour: str
    fill: Fill

    @property
    def face(self) -> str:
        """Colour inside a marker: its own, or white for the open and ringed ones."""
        return self.colour if self.fill == "full" else "white"

    @property
    def edge(self) -> str:
        """Colour around a marker: white, or its own for the open and ringed ones."""
        return "white" if self.fill == "full" else self.colour

    @property
    def edge_width(self) -> float:
        """Edge of a marker: thin, or thick for a ring."""
        return {"full": 0.4, "open": 0.9, "ring": 1.7}[self.fill]


def looks(optimizers: Sequence[str], baseline: str | None) -> dict[str, Look]:
    """A look for each optimizer, in order; the baseline's is fixed. After thirty they repeat.

    >>> found = looks(["sgd", "sam", "asam"], "sgd")
    >>> found["sgd"].colour, found["sam"].colour, found["asam"].fill
    ('#4d4d4d', '#3f90da', 'full')
    """
    found: dict[str, Look] = {}
    place = 0
    for optimizer in optimizers:
        if optimizer == baseline:
            found[optimizer] = Look(BASELINE_COLOUR, "full")
            continue
        turn = place // len(HUES) % len(FILLS)
        found[optimizer] = Look(HUES[place % len(HUES)], FILLS[turn])
        place += 1
    return found


def markers(conditions: Sequence[str]) -> dict[str, str]:
    """A marker shape for each condition, in order; after ten they repeat.

    >>> markers(["noise 0", "noise 0.5"])
    {'noise 0': 'o', 'noise 0.5': 's'}
    """
    return {condition: MARKERS[place % len(MARKERS)] for place, condition in enumerate(conditions)}
