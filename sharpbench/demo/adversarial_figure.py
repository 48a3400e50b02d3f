"""The figure of the adversarial-model case study: directions on the sphere, and shares against SNR."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from .angular import orthogonal_pair
from .canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, Look, letter, paper_style
from .noise_design import TRUE_GRADIENT

Array = NDArray[np.float64]

LOOK = {
    "sam": Look("SAM", BLUE, "o", "-"),
    "infosam": Look("InfoSAM, true variances", ORANGE, "s", "-"),
    "infosam_estimated": Look("InfoSAM, own estimate", GREEN, "^", ":"),
    "infosam_averaged": Look("InfoSAM, averaged", PURPLE, "v", ":"),
    "l1": Look("L1-SAM", GREY, "D", "--"),
}
#: Points drawn per globe: enough to see the law, few enough to see the points.
SHOWN = 1500


def draw(directions: Mapping[str, Array], table: pd.DataFrame, half_angle: float) -> Figure:
    """Left: the two hemispheres around the x axis in equal-area projection (Lambert), one row per rule,
    the cap around the true gradient outlined. Right: shares against SNR, points sampled, lines exact.
    """
    with paper_style():
        figure = Figure(figsize=(8.2, 5.2))
        grid = figure.add_gridspec(
            1, 2, width_ratios=(1.32, 1), left=0.02, right=0.985, top=0.92, bottom=0.1, wspace=0.24
        )
        globes = grid[0].subgridspec(2, 2, wspace=0.02, hspace=0.28)
        for row, rule in enumerate(("sam", "infosam")):
            for column, side in enumerate((+1, -1)):
                axes = figure.add_subplot(globes[row, column])
                _globe(axes, directions[rule], side, half_angle, LOOK[rule].color)
                if column == 0:
                    letter(axes, "ab"[row], LOOK[rule].label)
        figure.text(
            0.285, 0.02, "★ true gradient    ☆ its opposite    ○ 15° around it", ha="center", fontsize=8.5
        )
        shares = grid[1].subgridspec(2, 1, hspace=0.42)
        titles = {
            "published": "Published noise: a·diag(.2, 2, 1)",
            "swapped": "Swapped noise: a·diag(2, .2, 1)",
        }
        for row, (covariance, title) in enumerate(titles.items()):
            axes = figure.add_subplot(shares[row])
            _curves(axes, table[table.covariance == covariance])
            letter(axes, "cd"[row], title)
            if row == 1:
                axes.set_xlabel("signal-to-noise ratio")
        handles, labels = axes.get_legend_handles_labels()
        figure.axes[-2].legend(handles, labels, loc="upper left", handlelength=2.2, labelspacing=0.3)
        return figure


def _globe(axes: Axes, vectors: Array, side: int, half_angle: float, color: str) -> None:
    on_side = vectors[:, 0] * side > 0
    shown = vectors[:SHOWN][on_side[:SHOWN]]
    axes.add_patch(Circle((0, 0), 1.0, facecolor="#F6F6F6", edgecolor="black", linewidth=0.8))
    for degrees in (30, 60):
        radius = math.sqrt(1 - math.cos(math.radians(degrees)))
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor="white", linewidth=0.9))
    axes.plot([-1, 1], [0, 0], color="white", linewidth=0.9, zorder=1)
    axes.plot([0, 0], [-1, 1], color="white", linewidth=0.9, zorder=1)
    axes.scatter(*_project(shown, side), s=3.5, color=color, alpha=0.45, linewidths=0, zorder=2)
    target = side * np.array(TRUE_GRADIENT) / np.linalg.norm(TRUE_GRADIENT)
    axes.plot(*_project(_cap_edge(target, half_angle), side), color="black", linewidth=1.1, zorder=3)
    axes.scatter(
        *_project(target[None], side),
        marker="*",
        s=55,
        facecolors="black" if side > 0 else "white",
        edgecolors="black",
        linewidths=0.8,
        zorder=4,
    )
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(-1.12, 1.12)
    axes.set_ylim(-1.12, 1.12)
    sign = "+" if side > 0 else "−"
    axes.text(0, -1.09, f"{sign}x side: {100 * on_side.mean():.0f} %", ha="center", va="top", fontsize=8.5)
    axes.text(1.04, 0, "+y" if side > 0 else "−y", ha="left", va="center", fontsize=8, color=GREY)
    axes.text(0, 1.03, "+z", ha="center", va="bottom", fontsize=8, color=GREY)


def _project(vectors: Array, side: int) -> tuple[Array, Array]:
    """Lambert's equal-area map of the hemisphere around ``side`` times the x axis to the unit disc.

    Seen from outside: y runs to the right in front, to the left behind.
    """
    height = np.clip(vectors[:, 0] * side, 0.0, 1.0)
    flat = np.hypot(vectors[:, 1], vectors[:, 2])
    stretch = np.sqrt(1 - height) / np.where(flat > 0, flat, 1.0)
    return side * vectors[:, 1] * stretch, vectors[:, 2] * stretch


def _cap_edge(axis: Array, half_angle: float) -> Array:
    first, second = orthogonal_pair(axis)
    turn = np.linspace(0, 2 * math.pi, 181)[:, None]
    ring = np.cos(turn) * first + np.sin(turn) * second
    edge: Array = math.cos(half_angle) * axis + math.sin(half_angle) * ring
    return edge


def _curves(axes: Axes, table: pd.DataFrame) -> None:
    for rule, (label, color, marker, line) in LOOK.items():
        rows = table[table.rule == rule]
        exact = rows.axis_exact.notna().all()
        axes.plot(rows.snr, rows.axis_exact if exact else rows.axis_share, line, color=color, linewidth=1.3)
        axes.errorbar(
            rows.snr,
            rows.axis_share,
            yerr=np.clip([rows.axis_share - rows.axis_low, rows.axis_high - rows.axis_share], 0, None),
            fmt=marker,
            linestyle="none",
            color=color,
            markersize=4,
            elinewidth=1,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.0)
    axes.set_ylabel("within 15° of the line")
    axes.set_xticks([0.01, 0.03, 0.1, 0.3, 1.0], ["0.01", "0.03", "0.1", "0.3", "1"])
    axes.minorticks_off()
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
