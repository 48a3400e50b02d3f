"""Sharpness against generalization gap: one panel per measure, one dot per run."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter

from .bootstrap import Association
from .canvas import INK, condition_titles, grid, legend_below, look_handle, plain
from .columns import HEADLINE_MEASURES, describe_measure
from .display import signed
from .frames import Frames
from .link import FEWEST_RUNS, measure_against_gap
from .palette import looks, markers

MOST_PANELS = 6
AXIS_LABELS = {
    "trace": r"trace, tr $H$",
    "frobenius_norm": r"Frobenius norm, $\Vert H\Vert_F$",
    "lambda_1": r"largest eigenvalue, $\lambda_1$",
    "log_determinant": r"log-determinant, $\log\,\det(I + |H|/\delta)$",
    "sam_sharpness": r"SAM sharpness, $L(x + \rho g/\Vert g\Vert) - L(x)$",
}


def link_figure(frames: Frames) -> Figure:
    """Accuracy gap against each headline measure, with Kendall's τ-b within conditions and over all."""
    styles = looks(frames.plan.optimizers, frames.plan.baseline)
    shapes = markers(frames.plan.conditions)
    titles = condition_titles(frames.plan.conditions, 60)
    shown = linked_measures(frames)
    figure, axes = grid(len(shown), 3 if len(shown) not in (2, 4) else 2, 2.0)
    for axis, name in zip(axes, shown, strict=True):
        runs, within, overall = measure_against_gap(frames, name, "accuracy_gap")
        for condition, dots in runs.groupby("condition", sort=False):
            drawn = [styles[optimizer] for optimizer in dots["optimizer"]]
            axis.scatter(
                dots[name],
                100.0 * dots["accuracy_gap"],
                s=17,
                marker=shapes[str(condition)],
                facecolor=[look.face for look in drawn],
                edgecolor=[look.edge for look in drawn],
                linewidth=[look.edge_width for look in drawn],
                alpha=0.85,
                zorder=3,
            )
        if runs["condition"].nunique() > 1:
            axis.set_title(f"within: {_link_text(within)}\nall: {_link_text(overall)}", fontsize=7.5)
        else:
            axis.set_title(_link_text(overall))
        axis.set_xlabel(AXIS_LABELS.get(name) or plain(describe_measure(name).title))
        axis.grid(color=INK, alpha=0.08, linewidth=0.6)
        if (runs[name] > 0).all():
            _log_axis(axis, runs[name])
    figure.supylabel("generalization gap: train − test accuracy (points)", fontsize=8)
    groups = [[look_handle(name, styles[name]) for name in frames.plan.optimizers]]
    if len(frames.plan.conditions) > 1:
        groups.append([_shape_handle(titles[condition], shape) for condition, shape in shapes.items()])
    legend_below(figure, groups)
    return figure


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


def linked_measures(frames: Frames) -> list[str]:
    """The headline measures (or, without any, the first others) that enough runs have."""
    names = [name for name in HEADLINE_MEASURES if name in frames.measure_names] or list(frames.measure_names)
    return [name for name in names if frames.done[name].notna().sum() >= FEWEST_RUNS][:MOST_PANELS]


def _link_text(link: Association) -> str:
    tau = f"τ = {signed(link.value)}"
    return tau if link.low != link.low else f"{tau} [{signed(link.low)}, {signed(link.high)}]"


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
