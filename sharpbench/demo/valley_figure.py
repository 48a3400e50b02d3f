"""The figure of the asymmetric-valley case study: the valley, the walks, and steps against SNR."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, Look, letter, paper_style
from .valley import Valley, expected_slope

Array = NDArray[np.float64]

LOOK = {
    "sgd": Look("SGD", GREY, "o", "-"),
    "ideal_sam": Look("ideal SAM", BLUE, "s", "-"),
    "noisy_sam": Look("noisy SAM", ORANGE, "^", "-"),
    "vasso_0.9": Look("VaSSO, θ = .9", PURPLE, "v", ":"),
    "vasso_0.1": Look("VaSSO, θ = .1", GREEN, "D", ":"),
}
#: Steps drawn: until the medians have settled.
SHOWN_STEPS = {"crossing": 250, "minimising": 600}


def draw(
    valley: Valley,
    rho: float,
    sigma: float,
    snr: float,
    quartiles: Mapping[str, Mapping[str, Array]],
    table: pd.DataFrame,
) -> Figure:
    """Left: the valley and the mean slope each rule descends along. Middle: median walks with their middle
    halves. Right: mean steps relative to SGD against SNR, points from walks, lines exact.
    """
    with paper_style():
        figure = Figure(figsize=(9.6, 5.2))
        grid = figure.add_gridspec(
            2,
            3,
            left=0.06,
            right=0.985,
            top=0.93,
            bottom=0.16,
            wspace=0.3,
            hspace=0.5,
            width_ratios=(1, 1.15, 1),
        )
        panels = [[figure.add_subplot(grid[row, column]) for column in range(3)] for row in range(2)]
        starts = {name: float(walks["sgd"][1, 0]) for name, walks in quartiles.items()}
        _valley(panels[0][0], valley, starts)
        _slopes(panels[1][0], valley, rho, sigma, snr)
        titles = {
            "crossing": "Crossing from the sharper slope",
            "minimising": "Minimising on the flatter slope",
        }
        for row, (name, title) in enumerate(titles.items()):
            _walks(panels[row][1], quartiles[name], SHOWN_STEPS[name])
            letter(panels[row][1], "cd"[row], title)
            _ratios(panels[row][2], table[table.scenario == name])
            noun = "from the sharper slope" if row == 0 else "from the flatter slope"
            letter(panels[row][2], "ef"[row], f"Steps {noun}")
        panels[1][1].set_xlabel("step")
        panels[1][2].set_xlabel("signal-to-noise ratio at the start")
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle=line, markersize=4.5, label=label)
            for label, color, marker, line in LOOK.values()
        ]
        figure.legend(handles=handles, loc="lower center", ncols=5, handlelength=2.8, columnspacing=2.2)
        return figure


def _valley(axes: Axes, valley: Valley, starts: Mapping[str, float]) -> None:
    x = np.linspace(-2.2, 3.0, 400)
    axes.plot(x, valley.loss(x), color="black")
    for name, start in starts.items():
        height = float(valley.loss(start))
        axes.plot([start], [height], "o", color="black", markersize=5)
        axes.annotate(
            "start of c" if name == "crossing" else "start of d",
            (start, height),
            xytext=(8 if start < 0 else -2, 2 if start < 0 else 7),
            textcoords="offset points",
            ha="left" if start < 0 else "right",
            fontsize=8,
        )
    axes.plot([0], [0], marker="*", color="black", markersize=9, linestyle="none")
    axes.set_xlabel("x")
    axes.set_ylabel("f(x)")
    axes.set_ylim(-0.12, None)
    letter(axes, "a", "The valley")


def _slopes(axes: Axes, valley: Valley, rho: float, sigma: float, snr: float) -> None:
    x = np.linspace(-2.2, 3.0, 1041)
    for rule in ("sgd", "ideal_sam", "noisy_sam"):
        _, color, _, line = LOOK[rule]
        slope = expected_slope(valley, rule, x, sigma, rho)
        if rule == "ideal_sam":
            slope[np.abs(x) < 1e-9] = np.nan  # it jumps there: no line across the jump
        axes.plot(x, slope, line, color=color)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_xlabel("x")
    axes.set_ylabel("mean slope descended")
    letter(axes, "b", "What each rule descends")
    axes.text(0.98, 0.06, f"noise as in d (SNR {snr:g})", transform=axes.transAxes, ha="right", fontsize=8)


def _walks(axes: Axes, quartiles: Mapping[str, Array], shown: int) -> None:
    for rule, bounds in quartiles.items():
        if rule == "vasso_0.9":
            continue  # lies on noisy SAM
        low, middle, high = bounds[:, : shown + 1]
        _, color, _, line = LOOK[rule]
        step = np.arange(shown + 1)
        if not rule.startswith("vasso"):
            axes.fill_between(step, low, high, color=color, alpha=0.14, linewidth=0)
        axes.plot(step, middle, line, color=color)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_ylabel("x (median, quartiles)")
    axes.set_xlim(0, shown)


def _ratios(axes: Axes, table: pd.DataFrame) -> None:
    base = table[table.rule == "sgd"].set_index("snr")
    for rule, (_, color, marker, line) in LOOK.items():
        rows = table[table.rule == rule].set_index("snr")
        ratio = rows.steps / base.steps
        exact = rows.steps_exact / base.steps_exact
        axes.plot(rows.index, exact if exact.notna().all() else ratio, line, color=color)
        axes.plot(rows.index, ratio, marker, color=color, markersize=4.5)
    axes.set_xscale("log")
    axes.set_xticks([0.01, 0.1, 1.0], ["0.01", "0.1", "1"])
    axes.minorticks_off()
    axes.set_ylabel("mean steps / SGD's")
