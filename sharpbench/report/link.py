"""Which sharpness measure goes with which generalization gap: one row per gap and measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .bootstrap import Codes
from .evidence import Association, Evidence, intervals
from .frames import Frames
from .granulated import MEAN, granulated_evidence
from .layout import Layout, codes_of, crossed
from .numbers import linear_evidence, pearson_scores, spearman_scores
from .rank_pairs import kendall_evidence
from .sample import Sample
from .uncertain import MeasuredValues, measured_values

# Both sides on the label distribution that was trained on, so that label noise does not pass for a gap.
GAPS = {
    "accuracy_gap": "train − test accuracy, same label noise on both sides",
    "loss_gap": "test − train loss, same label noise on both sides",
}
FEWEST_RUNS = 3
# With fewer of the runs left, which runs have a usable value decides about the coefficient.
SMALLEST_SHARE = 0.5
BOUNDS_ONLY = "more than half of the runs have the measure only as a bound"

COEFFICIENTS = ("within", "kendall", "spearman", "pearson", "granulated")
LINK_COLUMNS = {
    "gap": "accuracy_gap or loss_gap",
    "measure": "the sharpness measure",
    "runs": "finished runs whose value of the measure takes part",
    "unconverged": "those among them whose value missed the requested precision: the intervals hold its "
    "error (the value is drawn again within its own 95 % interval)",
    "left_out": "finished runs left out because the measure is unconverged and has no usable error (a "
    "bound); without an interval if they are more than half",
    "optimizers": "distinct optimizers among the runs that take part",
    "conditions": "distinct conditions among them",
    "configurations": "distinct pairs of optimizer and condition among them",
    "within": "Kendall's τ-b over pairs of runs in the same condition",
    "kendall": "Kendall's τ-b over all runs",
    "spearman": "Spearman's ρ over all runs",
    "pearson": "Pearson's r over all runs",
    "pearson_scale": "log10 where the measure is positive in every run (as in the figures), else linear",
    "granulated": "mean of the granulated Kendall ψ over the axes: Ψ of Jiang et al. 2019",
}


@dataclass(frozen=True)
class _Grid:
    """The finished runs as the statistics need them."""

    layout: Layout
    conditions: Codes
    seeds: Codes
    axes: dict[str, Codes]


def generalization_link(frames: Frames) -> pd.DataFrame:
    """Rank and linear correlations of every measure with both generalization gaps.

    Columns: :data:`LINK_COLUMNS`; each coefficient has ``_low`` and ``_high``, and each axis with more
    than one value has its ``granulated_AXIS``. Intervals allow for runs that share an optimizer or a
    condition, and for the number of measures: if no measure had a link to the gap, one coefficient would
    show one or more with at most 5 % probability (:func:`~sharpbench.report.evidence.intervals`).
    ``p_COEFFICIENT`` is the p-value corrected in the same way, ``reason_COEFFICIENT`` says why there is no
    interval.

    Only finished runs take part. Rows are in the order of gaps and measures; a measure with fewer than
    three runs, or the same value in all of them, is left out, unless the reason is that values are
    bounds: then the row counts them.
    """
    grid = _grid(frames)
    coefficients = [*COEFFICIENTS, *(f"granulated_{axis}" for axis in grid.axes)]
    measured = {name: measured_values(frames, name) for name in frames.measure_names}
    tables = [_of_gap(frames, gap, measured, grid, coefficients) for gap in GAPS]
    columns = [name for name in LINK_COLUMNS if name not in coefficients]
    columns += [f"{name}{end}" for name in coefficients for end in ("", "_low", "_high")]
    columns += [f"{start}_{name}" for name in coefficients for start in ("p", "reason")]
    return pd.DataFrame([row for rows in tables for row in rows], columns=columns)


def _grid(frames: Frames) -> _Grid:
    done = frames.done
    axes = [axis for axis in frames.plan.axes if done[axis].nunique() > 1]
    conditions = list(zip(*(done[axis] for axis in axes), strict=True)) if axes else list(done["condition"])
    varied = [axis for axis in ("optimizer", *axes) if done[axis].nunique() > 1]
    return _Grid(
        layout=crossed(list(done["optimizer"]), conditions),
        conditions=codes_of(conditions),
        seeds=codes_of(list(done["seed"])),
        axes={axis: codes_of(list(done[axis])) for axis in varied},
    )


def _of_gap(
    frames: Frames,
    gap: str,
    measured: dict[str, MeasuredValues],
    grid: _Grid,
    coefficients: list[str],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Evidence]] = []
    y = frames.done[gap].to_numpy(dtype="float64")
    for name, values in measured.items():
        keep = np.flatnonzero(np.isfinite(values.values) & np.isfinite(y))
        bounds = int((values.left_out & np.isfinite(y)).sum())
        enough = len(keep) >= FEWEST_RUNS and len(np.unique(values.values[keep])) > 1
        if not enough and not bounds:
            continue
        rows.append({"gap": gap, "measure": name, "left_out": bounds} | _counts(frames, values, keep))
        found.append(_evidence(values, y, keep, grid) if enough else {})
    for coefficient in coefficients:
        _fill(rows, coefficient, [each.get(coefficient) for each in found])
    return rows


def _counts(frames: Frames, values: MeasuredValues, keep: Codes) -> dict[str, Any]:
    runs = frames.done.iloc[keep]
    return {
        "runs": len(runs),
        "unconverged": int(values.unconverged[keep].sum()),
        "optimizers": runs["optimizer"].nunique(),
        "conditions": runs["condition"].nunique(),
        "configurations": len(runs[["optimizer", "condition"]].drop_duplicates()),
        "pearson_scale": "log10" if values.positive else "linear",
    }


def _evidence(values: MeasuredValues, y: np.ndarray, keep: Codes, grid: _Grid) -> dict[str, Evidence]:
    x, layout, redrawn = values.values[keep], grid.layout.of(keep), values.redrawn(keep)
    sample = Sample(x, y[keep], layout, keep, redrawn)
    shown = Sample(np.log10(x), y[keep], layout, keep, np.log10(redrawn)) if values.positive else sample
    granulated = granulated_evidence(
        sample, {axis: codes[keep] for axis, codes in grid.axes.items()}, grid.seeds[keep]
    )
    found = {
        "within": kendall_evidence(sample, grid.conditions[keep]),
        "kendall": kendall_evidence(sample),
        "spearman": linear_evidence(sample, spearman_scores),
        "pearson": linear_evidence(shown, pearson_scores),
    }
    return found | {
        "granulated" if axis == MEAN else f"granulated_{axis}": each for axis, each in granulated.items()
    }


def _fill(rows: list[dict[str, Any]], name: str, family: list[Evidence | None]) -> None:
    """Add one coefficient to the rows, its intervals corrected for the number of measures."""
    # A measure that most runs have as a bound is no part of the family: nothing is claimed of it.
    tested = [
        place
        for place, (row, evidence) in enumerate(zip(rows, family, strict=True))
        if evidence is not None and row["runs"] >= SMALLEST_SHARE * (row["runs"] + row["left_out"])
    ]
    links = dict(zip(tested, intervals([family[place] for place in tested]), strict=True))  # type: ignore[misc]
    for place, (row, evidence) in enumerate(zip(rows, family, strict=True)):
        link = links.get(place)
        if link is None and evidence is not None:
            link = Association(evidence.value, np.nan, np.nan, evidence.runs, evidence.clusters,
                               reason=BOUNDS_ONLY)  # fmt: skip
        if link is None:
            row[f"reason_{name}"] = "too few runs have a usable value" if row["left_out"] else ""
            continue
        row |= {name: link.value, f"{name}_low": link.low, f"{name}_high": link.high}
        row |= {f"p_{name}": link.p, f"reason_{name}": link.reason}
