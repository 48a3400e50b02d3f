"""Which sharpness measure goes with which generalization gap: one row per gap and measure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from .association import kendall, kendall_within, pearson, spearman
from .bootstrap import Association
from .frames import Frames
from .granulated import granulated_kendall

# Both sides on the label distribution that was trained on, so that label noise does not pass for a gap.
GAPS = {
    "accuracy_gap": "train − test accuracy, same label noise on both sides",
    "loss_gap": "test − train loss, same label noise on both sides",
}
FEWEST_RUNS = 3

LINK_COLUMNS = {
    "gap": "accuracy_gap or loss_gap",
    "measure": "the sharpness measure",
    "runs": "finished runs that have the measure",
    "configurations": "distinct pairs of optimizer and condition among them",
    "within": "Kendall's τ-b over pairs of runs in the same condition",
    "kendall": "Kendall's τ-b over all runs",
    "spearman": "Spearman's ρ over all runs",
    "pearson": "Pearson's r over all runs",
    "pearson_scale": "log10 where the measure is positive in every run (as in the figures), else linear",
    "granulated": "mean of the granulated Kendall ψ over the axes: Ψ of Jiang et al. 2019",
}


def generalization_link(frames: Frames) -> pd.DataFrame:
    """Rank and linear correlations of every measure with both generalization gaps.

    Columns: :data:`LINK_COLUMNS`; each coefficient has ``_low`` and ``_high`` (95 % bootstrap interval
    over configurations), and each axis with more than one value has its ``granulated_AXIS``. Only
    finished runs take part. Rows are in the order of gaps and measures; a measure with fewer than three
    runs, or the same value in all of them, is left out.
    """
    done = frames.done
    axes = ("optimizer", *frames.plan.axes)
    varied = [axis for axis in axes if done[axis].nunique() > 1]
    coefficients = [
        "within",
        "kendall",
        "spearman",
        "pearson",
        "granulated",
        *(f"granulated_{axis}" for axis in varied),
    ]
    rows = []
    for gap in GAPS:
        for name in frames.measure_names:
            known = done[np.isfinite(done[name]) & np.isfinite(done[gap])]
            if len(known) >= FEWEST_RUNS and known[name].nunique() > 1:
                rows.append({"gap": gap, "measure": name, **_coefficients(known, name, gap, varied)})
    columns = [name for name in LINK_COLUMNS if name not in coefficients]
    columns += [f"{name}{end}" for name in coefficients for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=columns)


def measure_against_gap(
    frames: Frames, measure: str, gap: str
) -> tuple[pd.DataFrame, Association, Association]:
    """The finished runs that have both numbers, and Kendall's τ-b within conditions and over all."""
    done = frames.done
    known = done[np.isfinite(done[measure]) & np.isfinite(done[gap])]
    x, y, clusters = list(known[measure]), list(known[gap]), _configurations(known)
    return known, kendall_within(x, y, list(known["condition"]), clusters), kendall(x, y, clusters)


def _configurations(runs: pd.DataFrame) -> list[Hashable]:
    return list(zip(runs["optimizer"], runs["condition"], strict=True))


def _coefficients(runs: pd.DataFrame, measure: str, gap: str, axes: list[str]) -> dict[str, Any]:
    x, y = list(runs[measure]), list(runs[gap])
    clusters = _configurations(runs)
    positive = min(x) > 0
    found = {
        "within": kendall_within(x, y, list(runs["condition"]), clusters),
        "kendall": kendall(x, y, clusters),
        "spearman": spearman(x, y, clusters),
        "pearson": pearson(list(np.log10(x)) if positive else x, y, clusters),
    }
    granulated = granulated_kendall(x, y, {axis: list(runs[axis]) for axis in axes}, list(runs["seed"]))
    if "mean" in granulated:
        found["granulated"] = granulated["mean"]
    found |= {f"granulated_{axis}": granulated[axis] for axis in axes if axis in granulated}
    row: dict[str, Any] = {
        "runs": len(runs),
        "configurations": len(set(clusters)),
        "pearson_scale": "log10" if positive else "linear",
    }
    for name, link in found.items():
        row |= {name: link.value, f"{name}_low": link.low, f"{name}_high": link.high}
    return row
