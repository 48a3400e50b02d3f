"""Test accuracy of every optimizer in every condition: each seed a dot or a cross, mean and t-interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .canvas import INK, condition_titles, grid, plain
from .frames import Frames
from .palette import BASELINE_COLOUR, Look, looks
from .statistics import mean_interval

# An interval reaches at most this many dot ranges beyond the dots; two seeds (t = 12.7) would
# otherwise squeeze all dots into a line. Cut ends are drawn as arrows.
REACH = 0.8
# Within a row of height 1: the interval lies this far below the middle, dots up to so far above.
BELOW, ABOVE = 0.17, 0.36
# Between two crosses of diverged runs, as a share of the width.
CROSS_STEP = 0.035


def accuracy_figure(frames: Frames, board: pd.DataFrame) -> Figure:
    """One panel per condition, one row per optimizer (best mean rank on top), accuracy in percent."""
    order = overall_order(board)
    styles = looks(frames.plan.optimizers, frames.plan.baseline)
    conditions = [c for c in frames.plan.conditions if (frames.done["condition"] == c).any()]
    titles = condition_titles(conditions, 24)
    columns = 3 if len(conditions) not in (2, 4) else 2
    figure, axes = grid(len(conditions), columns, 0.6 + max(0.21 * len(order), 0.5), share_y=True)
    for place, (axis, condition) in enumerate(zip(axes, conditions, strict=True)):
        done = frames.done[frames.done["condition"] == condition]
        _panel(axis, done, order, styles, frames.plan.baseline)
        _crosses(axis, _diverged(frames, condition), order, styles)
        axis.set_title(titles[condition])
        if place + columns >= len(conditions):
            axis.set_xlabel("test accuracy (%)")
    axes[0].set_yticks(range(len(order)), [plain(name) for name in order])
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    return figure


def overall_order(board: pd.DataFrame) -> list[str]:
    """Optimizers by mean rank over the conditions; those never finished come last, in plan order.

    Where all runs of an optimizer diverged, it has the last place of that condition.
    """
    places = board["rank"].astype("float64")
    last = board.groupby("condition", sort=False)["optimizer"].transform("size").astype("float64")
    places = places.where(places.notna() | (board["n_diverged"] == 0), last)
    ranks = places.groupby(board["optimizer"], sort=False).mean()
    return [str(name) for name in ranks.astype("float64").fillna(np.inf).sort_values(kind="stable").index]


def _diverged(frames: Frames, condition: str) -> pd.DataFrame:
    runs = frames.runs
    return runs[(runs["condition"] == condition) & (runs["status"] == "diverged")]


def _crosses(axis: Axes, lost: pd.DataFrame, order: list[str], styles: dict[str, Look]) -> None:
    """Diverged runs, below any accuracy: side by side left of all that has one."""
    if not len(lost):
        return
    low, high = axis.get_xlim()
    step = CROSS_STEP * (high - low)
    places = lost.groupby("optimizer", sort=False).cumcount()
    rows = {name: place for place, name in enumerate(order)}
    axis.scatter(
        low - step * (0.5 + places),
        [rows[name] for name in lost["optimizer"]],
        s=16,
        marker="x",
        c=[styles[name].colour for name in lost["optimizer"]],
        linewidth=1.1,
        zorder=3,
    )
    axis.axvline(low, color=INK, alpha=0.25, linewidth=0.6, zorder=0)
    left = low - step * (float(places.max()) + 1.2)
    # No numbers under the crosses: a diverged run has no accuracy.
    axis.set_xticks([tick for tick in axis.get_xticks() if low <= tick <= high])
    axis.set_xlim(left, high)
    axis.hlines(np.arange(len(order)) + 0.5, left, low, color=INK, alpha=0.1, linewidth=0.6, zorder=0)


def _panel(
    axis: Axes, done: pd.DataFrame, order: list[str], styles: dict[str, Look], baseline: str | None
) -> None:
    percent = 100.0 * done["test_accuracy"]
    spread = max(float(percent.max() - percent.min()), 0.2)
    low, high = float(percent.min()) - REACH * spread, float(percent.max()) + REACH * spread
    rows = {name: place for place, name in enumerate(order)}
    bars, colours, means = [], [], []
    caps: dict[str, list[tuple[float, float, str]]] = {"|": [], "<": [], ">": []}
    for name, values in percent.groupby(done["optimizer"], sort=False):
        row, colour = rows[str(name)] + BELOW, styles[str(name)].colour
        found = mean_interval(values)
        means.append((found.mean, row, colour))
        if found.n > 1:
            left, right = max(found.low, low), min(found.high, high)
            bars.append([(left, row), (right, row)])
            colours.append(colour)
            caps["<" if found.low < low else "|"].append((left, row, colour))
            caps[">" if found.high > high else "|"].append((right, row, colour))
    axis.add_collection(LineCollection(bars, colors=colours, linewidths=1.4, zorder=2, capstyle="butt"))
    for marker, ends in caps.items():
        if ends:
            x, y, edge = zip(*ends, strict=True)
            axis.scatter(x, y, s=18, marker=marker, c=edge, linewidth=1.1, zorder=2)
    x, y, edge = zip(*means, strict=True)
    axis.scatter(x, y, s=17, marker="D", facecolor="white", edgecolor=edge, linewidth=1.2, zorder=4)
    # Seeds stand above the interval, set apart by height in order: equal accuracies stay two dots.
    seeds = {seed: place for place, seed in enumerate(sorted(done["seed"].unique()))}
    lifts = [ABOVE * (0.5 + 0.5 * seeds[seed] / max(1, len(seeds) - 1)) for seed in done["seed"]]
    axis.scatter(
        percent,
        [rows[name] - lift for name, lift in zip(done["optimizer"], lifts, strict=True)],
        s=9,
        c=[styles[name].colour for name in done["optimizer"]],
        alpha=0.75,
        linewidth=0,
        zorder=3,
    )
    reference = percent[done["optimizer"] == baseline]
    if len(reference):
        axis.axvline(reference.mean(), color=BASELINE_COLOUR, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    reached = [*percent, *(end for pair in bars for end, _ in pair)]
    margin = 0.04 * max(max(reached) - min(reached), 0.1)
    axis.set_xlim(min(reached) - margin, max(reached) + margin)
    axis.hlines(np.arange(len(order)) + 0.5, *axis.get_xlim(), color=INK, alpha=0.1, linewidth=0.6, zorder=0)
    axis.tick_params(axis="y", length=0)
