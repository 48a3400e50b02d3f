"""Sharpness against generalization gap: one panel per measure, one dot per run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from .canvas import INK, condition_titles, grid, legend_below, look_handle, plain
from .columns import HEADLINE_MEASURES, describe_measure
from .display import DASH, count, interval, signed
from .frames import Frames
from .link import FEWEST_RUNS, generalization_link
from .palette import looks, markers
from .uncertain import measured_values

GAP = "accuracy_gap"
MOST_PANELS = 6
AXIS_LABELS = {
    "trace": r"trace, tr $H$",
    "frobenius_norm": r"Frobenius norm, $\Vert H\Vert_F$",
    "lambda_1": r"largest eigenvalue, $\lambda_1$",
    "log_determinant": r"log-determinant, $\log\,\det(I + |H|/\delta)$",
    "sam_sharpness": r"SAM sharpness, $L(x + \rho g/\Vert g\Vert) - L(x)$",
}


def link_figure(frames: Frames, link: pd.DataFrame | None = None) -> Figure:
    """Accuracy gap against each headline measure, with Kendall's τ-b within conditions and over all.

    ``link`` is the table of :func:`~sharpbench.report.link.generalization_link`; it is computed if absent.
    """
    link = generalization_link(frames) if link is None else link
    rows = link[link["gap"] == GAP].set_index("measure")
    styles = looks(frames.plan.optimizers, frames.plan.baseline)
    shapes = markers(frames.plan.conditions)
    titles = condition_titles(frames.plan.conditions, 60)
    shown = linked_measures(link)
    figure, axes = grid(len(shown), 3 if len(shown) not in (2, 4) else 2, 2.0)
    for axis, name in zip(axes, shown, strict=True):
        measured = measured_values(frames, name)
        done = frames.done.assign(
            value=measured.values, low=measured.low, high=measured.high, uncertain=measured.unconverged
        )
        runs = done[np.isfinite(done["value"]) & np.isfinite(done[GAP])]
        _errors(axis, runs[runs["uncertain"]])
        for condition, dots in runs.groupby("condition", sort=False):
            drawn = [styles[optimizer] for optimizer in dots["optimizer"]]
            axis.scatter(
                dots["value"],
                100.0 * dots[GAP],
                s=17,
                marker=shapes[str(condition)],
                facecolor=[look.face for look in drawn],
                edgecolor=[look.edge for look in drawn],
                linewidth=[look.edge_width for look in drawn],
                alpha=0.85,
                zorder=3,
            )
        axis.set_title(_panel_title(rows.loc[[name]].iloc[0], runs["condition"].nunique()), fontsize=7.5)
        axis.set_xlabel(AXIS_LABELS.get(name) or plain(describe_measure(name).title))
        axis.grid(color=INK, alpha=0.08, linewidth=0.6)
        if measured.positive:
            _log_axis(axis, runs["value"])
    figure.supylabel("generalization gap: train − test accuracy (points)", fontsize=8)
    groups = [[look_handle(name, styles[name]) for name in frames.plan.optimizers]]
    if len(frames.plan.conditions) > 1:
        groups.append([_shape_handle(titles[condition], shape) for condition, shape in shapes.items()])
    legend_below(figure, groups)
    return figure


def _errors(axis: Axes, runs: pd.DataFrame) -> None:
    """The 95 % intervals of the values that did not reach their precision."""
    # One line with gaps: a line for each run would be many elements.
    ends = np.column_stack([runs["low"], runs["high"], np.full(len(runs), np.nan)])
    gaps = np.repeat(100.0 * runs[GAP].to_numpy(dtype="float64"), 3)
    axis.plot(ends.ravel(), gaps, color=INK, linewidth=0.6, alpha=0.35, zorder=2)


def _panel_title(row: pd.Series, conditions: int) -> str:
    lines = [_link_text(row, "kendall")]
    if conditions > 1:
        lines = [f"within: {_link_text(row, 'within')}", f"all: {lines[0]}"]
    if row["left_out"]:
        lines.append(f"{count(int(row['left_out']), 'run')} left out: only a bound")
    return "\n".join(lines)


def _shape_handle(title: str, shape: str) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=shape,
        markersize=4.6,
        markeredgewidth=0,
        color="#9a9a9a",
        label=title,
    )


def linked_measures(link: pd.DataFrame) -> list[str]:
    """The headline measures (or, without any, the first others) that enough runs have."""
    rows = link[(link["gap"] == GAP) & (link["runs"] >= FEWEST_RUNS)]
    found = [str(name) for name in rows["measure"]]
    return ([name for name in HEADLINE_MEASURES if name in found] or found)[:MOST_PANELS]


def _link_text(row: pd.Series, name: str) -> str:
    span = interval(row[f"{name}_low"], row[f"{name}_high"])
    return f"τ = {signed(row[name])}" + ("" if span == DASH else f" {span}")


def _log_axis(axis: Axes, values: pd.Series) -> None:
    """Logarithmic, with ticks that can be read whether the data span half a decade or six."""
    axis.set_xscale("log")
    ratio = float(values.max() / values.min())
    if ratio < 4.0:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif ratio < 60.0:
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.xaxis.set_major_locator(LogLocator(numticks=5))
        axis.xaxis.set_major_formatter(LogFormatterSciNotation())
    axis.xaxis.set_minor_formatter(NullFormatter())
