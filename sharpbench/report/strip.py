"""A row's runs at a glance: dots, mean and interval as a small inline SVG inside a table cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from .statistics import mean_interval

WIDTH, HEIGHT, MARGIN = 132.0, 18.0, 5.0
MOST_CROSSES = 5


@dataclass(frozen=True)
class Scale:
    """Percent to pixels, shared by all rows of one table."""

    low: float
    high: float

    def at(self, percent: float) -> float:
        """The position of a value, kept inside the picture."""
        share = (min(max(percent, self.low), self.high) - self.low) / (self.high - self.low)
        return MARGIN + share * (WIDTH - 2 * MARGIN)


def scale_of(percent: pd.Series) -> Scale:
    """A scale over all dots of a condition, with half their range beside them for the intervals.

    >>> scale_of(pd.Series([90.0, 92.0]))
    Scale(low=89.0, high=93.0)
    """
    low, high = float(percent.min()), float(percent.max())
    room = max(0.5 * (high - low), 0.05)
    return Scale(low - room, high + room)


def strip(percent: pd.Series, scale: Scale, baseline: float, diverged: int = 0) -> Markup:
    """The picture of one row; ``baseline`` (nan: none) is a thin line, diverged runs are crosses at the left.

    Only numbers go in, none to escape.
    """
    values = [value for value in percent if math.isfinite(value)]
    if not values and not diverged:
        return Markup("")
    found = mean_interval(values)
    middle = HEIGHT / 2
    parts = []
    # Side by side as far as the picture goes: the table says how many there are.
    for place in range(min(diverged, MOST_CROSSES)):
        x = MARGIN - 2 + 6 * place
        parts.append(f'<path class="lost" d="M{x:.0f} {middle - 2.5}l5 5m0 -5l-5 5"/>')
    if math.isfinite(baseline):
        x = scale.at(baseline)
        parts.append(f'<path class="base" d="M{x:.1f} 0V{HEIGHT:.0f}"/>')
    if found.n > 1:
        parts.append(
            f'<path class="bar" d="M{scale.at(found.low):.1f} {middle}H{scale.at(found.high):.1f}"/>'
        )
    parts += [f'<circle cx="{scale.at(value):.1f}" cy="{middle}" r="2.2"/>' for value in values]
    if values:
        x = scale.at(found.mean)
        parts.append(f'<path class="mean" d="M{x:.1f} {middle - 5}V{middle + 5}"/>')
    return Markup(
        f'<svg class="strip" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" width="{WIDTH:.0f}" '
        f'height="{HEIGHT:.0f}" aria-hidden="true">{"".join(parts)}</svg>'
    )
