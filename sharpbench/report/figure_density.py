"""Spectral densities of the Hessian: one ridge per optimizer, seeds thin, their mean thick."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .canvas import condition_titles, grid, plain
from .figure_accuracy import overall_order
from .frames import Frames
from .palette import Look, looks

POINTS = 320
# Of a row's height; the rest keeps the ridges apart.
RIDGE = 0.86

Floats = NDArray[np.float64]


def density_figure(frames: Frames, board: pd.DataFrame) -> Figure:
    """One panel per condition, one ridge per optimizer (best mean rank on top), eigenvalue along x.

    The height of a ridge is the logarithm of the density, from a floor (named above the panel) to the
    panel's maximum; lines that cross as thirty spectra do could not be told apart.
    """
    conditions = [c for c in frames.plan.conditions if (frames.densities["condition"] == c).any()]
    order = [name for name in overall_order(board) if (frames.densities["optimizer"] == name).any()]
    columns = min(2, len(conditions))
    titles = condition_titles(conditions, 26)
    row_height = 0.42 if len(order) <= 8 else 0.26
    figure, axes = grid(len(conditions), columns, 0.65 + row_height * len(order), share_y=True)
    styles = looks(frames.plan.optimizers, frames.plan.baseline)
    for place, (axis, condition) in enumerate(zip(axes, conditions, strict=True)):
        spectra = _spectra(frames.densities[frames.densities["condition"] == condition])
        _ridges(axis, spectra, order, styles, _weights(frames, condition), titles[condition])
        if place + columns >= len(conditions):
            axis.set_xlabel("eigenvalue of the Hessian")
    axes[0].set_yticks(np.arange(len(order)) + 0.75, [plain(name) for name in order])
    axes[0].set_ylim(len(order) + 0.04, -0.02)
    return figure


def _ridges(
    axis: Axes,
    spectra: dict[str, list[tuple[Floats, Floats]]],
    order: list[str],
    styles: dict[str, Look],
    weights: float,
    title: str,
) -> None:
    low = min(float(x[0]) for runs in spectra.values() for x, _ in runs)
    high = max(float(x[-1]) for runs in spectra.values() for x, _ in runs)
    points = np.linspace(low, high, POINTS)
    found = {name: np.array([_at(points, x, y) for x, y in runs]) for name, runs in spectra.items()}
    top = max(float(densities.max()) for densities in found.values())
    # Fewer than one eigenvalue over the whole range: nothing.
    floor = min(1.0 / (weights * (high - low)) if weights > 0 and high > low else 1e-7 * top, 1e-2 * top)
    shown = [(row + 1, name) for row, name in enumerate(order) if name in found]
    colours = [styles[name].colour for _, name in shown]

    def ridge(base: int, density: Floats) -> Floats:
        height = np.log(np.maximum(density, floor) / floor) / math.log(top / floor)
        return np.column_stack([points, base - RIDGE * height])

    thick = [ridge(base, found[name].mean(axis=0)) for base, name in shown]
    thin = [ridge(base, density) for base, name in shown for density in found[name]]
    owners = [styles[name].colour for _, name in shown for _ in found[name]]
    grounds = [
        np.vstack([line, [[high, base], [low, base]]]) for line, (base, _) in zip(thick, shown, strict=True)
    ]
    axis.add_collection(PolyCollection(grounds, facecolors=colours, alpha=0.16, linewidths=0))
    axis.add_collection(LineCollection(thin, colors=owners, linewidths=0.4, alpha=0.5))
    axis.add_collection(LineCollection(thick, colors=colours, linewidths=1.2))
    axis.set_xlim(low, high)
    axis.set_title(title)
    axis.set_title(
        f"height: log density, {floor:.0e} … {top:.0e}", loc="right", fontsize=6.5, fontweight="normal"
    )
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _weights(frames: Frames, condition: str) -> float:
    """The number of weights: what one eigenvalue's share of the density is the inverse of."""
    known = frames.done.loc[frames.done["condition"] == condition, "parameters"].dropna()
    return float(known.max()) if len(known) else 0.0


def _spectra(densities: pd.DataFrame) -> dict[str, list[tuple[Floats, Floats]]]:
    """Optimizer -> one (eigenvalues, densities) pair per run, eigenvalues ascending."""
    spectra: dict[str, list[tuple[Floats, Floats]]] = {}
    for _, run in densities.groupby("run_id", sort=False):
        x, y = run["eigenvalue"].to_numpy("float64"), run["density"].to_numpy("float64")
        known = np.isfinite(x) & np.isfinite(y)
        order = np.argsort(x[known], kind="stable")
        if known.sum() > 1:
            spectra.setdefault(str(run["optimizer"].iloc[0]), []).append((x[known][order], y[known][order]))
    return spectra


def _at(points: Floats, x: Floats, y: Floats) -> Floats:
    """The density on common points: linear between its own, zero outside."""
    return np.asarray(np.interp(points, x, np.maximum(y, 0.0), left=0.0, right=0.0))
