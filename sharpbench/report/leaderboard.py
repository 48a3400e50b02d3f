"""The leaderboard: one row per condition and optimizer, with everything needed to judge it.

Accuracies and their differences are in percent (points); sharpness columns are means over seeds.
Differences are paired by seed within a condition, and Holm's correction runs over all comparisons
with the baseline in the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from .columns import HEADLINE_MEASURES, STATUSES
from .frames import Frames
from .statistics import (
    NAN,
    Paired,
    combined_error,
    detectable_difference,
    holm,
    mean_interval,
    paired_difference,
)

ALPHA = 0.05
POWER = 0.8

LEADERBOARD_COLUMNS = {
    "condition": "the values of the condition axes",
    "optimizer": "label of the optimizer",
    "rank": "place by mean test accuracy among the optimizers with a finished run; ties share a place. "
    "A rank is not a finding: see the verdict",
    "n_planned": "runs planned",
    **{f"n_{status}": f"runs {status}" for status in STATUSES},
    "test_accuracy": "mean test accuracy of the finished runs, percent",
    "test_accuracy_half_width": "half the width of its 95 % t-interval over seeds, percent",
    "test_accuracy_median": "median, percent",
    "difference": "mean of (this − baseline) over the seeds both finished, percentage points",
    "difference_low": "lower end of its 95 % paired t-interval (not adjusted for multiplicity)",
    "difference_high": "upper end",
    "n_pairs": "seeds compared",
    "p": "two-sided p-value of the paired t-test",
    "p_holm": "p after Holm's correction over all comparisons with the baseline in this report",
    "effect_size": "Hedges' g: difference in standard deviations of the paired differences, "
    "corrected for few seeds",
    "detectable": "the smallest true difference that these seeds would show four times in five at the "
    "corrected level, percentage points",
    "verdict": "better / worse: significant after correction; undecided: not; untested: fewer than two "
    "seeds in common, or all differences equal; baseline; no baseline: nothing to compare to",
    "accuracy_gap": "mean of train accuracy − test accuracy under the same label noise, percentage points",
    "gradient_evaluations": "mean number of forward-backward passes of a finished run",
    "cost_ratio": "gradient evaluations relative to the baseline",
    "wall_seconds": "mean seconds of a finished run",
}


def leaderboard(frames: Frames) -> pd.DataFrame:
    """One row per (condition, optimizer), in the plan's order of conditions, then by rank.

    The columns are the condition axes, :data:`LEADERBOARD_COLUMNS`, and for each headline measure of
    the suite its mean over the finished runs (``trace``) and the standard error of that mean
    (``trace_error``, :func:`~sharpbench.report.statistics.combined_error`). Runs that are not "done"
    count, and have no numbers. What can't be computed is nan.
    """
    plan = frames.plan
    present = [name for name in HEADLINE_MEASURES if name in frames.runs.columns]
    cells = {
        (str(condition), str(optimizer)): runs
        for (condition, optimizer), runs in frames.runs.groupby(["condition", "optimizer"], sort=False)
    }
    rows = []
    for condition in plan.conditions:
        for optimizer in plan.optimizers:
            if (condition, optimizer) not in cells:
                continue
            runs = cells[condition, optimizer]
            against = cells.get((condition, plan.baseline)) if plan.baseline is not None else None
            row = {axis: runs[axis].iloc[0] for axis in plan.axes}
            row |= {"condition": condition, "optimizer": optimizer, **_own_numbers(runs, present)}
            if optimizer == plan.baseline:
                row |= {"cost_ratio": 1.0 if row["n_done"] else NAN, "verdict": "baseline"}
            elif against is not None:
                row |= _comparison(runs, against)
            else:
                row |= {"verdict": "no baseline"}
            rows.append(row)
    columns = [*plan.axes, *LEADERBOARD_COLUMNS, *(n for m in present for n in (m, f"{m}_error"))]
    return _finish(pd.DataFrame(rows, columns=columns), plan.conditions)


def _own_numbers(runs: pd.DataFrame, measures: list[str]) -> dict[str, object]:
    done = runs[runs["status"] == "done"]
    accuracy = mean_interval(100.0 * done["test_accuracy"])
    numbers: dict[str, object] = {"n_planned": len(runs)}
    numbers |= {f"n_{status}": int((runs["status"] == status).sum()) for status in STATUSES}
    numbers |= {
        "test_accuracy": accuracy.mean,
        "test_accuracy_half_width": accuracy.half_width,
        "test_accuracy_median": accuracy.median,
        "accuracy_gap": mean_interval(100.0 * done["accuracy_gap"]).mean,
        "gradient_evaluations": mean_interval(done["gradient_evaluations"]).mean,
        "wall_seconds": mean_interval(done["wall_seconds"]).mean,
        "n_pairs": 0,
        "verdict": "untested",
    }
    for name in measures:
        numbers[name] = mean_interval(done[name]).mean
        numbers[f"{name}_error"] = combined_error(done[name], done[f"{name}_std_error"])
    return numbers


def _comparison(runs: pd.DataFrame, against: pd.DataFrame) -> dict[str, object]:
    compared = paired_by_seed(runs, against)
    cost = mean_interval(runs.loc[runs["status"] == "done", "gradient_evaluations"]).mean
    base = mean_interval(against.loc[against["status"] == "done", "gradient_evaluations"]).mean
    return {
        "difference": compared.difference,
        "difference_low": compared.low,
        "difference_high": compared.high,
        "n_pairs": compared.n,
        "p": compared.p,
        "effect_size": compared.effect_size,
        # The spread, until the size of the family is known.
        "detectable": compared.std,
        "cost_ratio": cost / base if base > 0 else NAN,
        "verdict": "untested" if math.isnan(compared.p) else "undecided",
    }


def paired_by_seed(runs: pd.DataFrame, against: pd.DataFrame, metric: str = "test_accuracy") -> Paired:
    """Compare two optimizers' runs of one condition over the seeds that both finished, in percent."""
    left, right = (
        frame[frame["status"] == "done"].drop_duplicates("seed").set_index("seed")[metric]
        for frame in (runs, against)
    )
    seeds = sorted(set(left.index) & set(right.index))
    return paired_difference(list(100.0 * left.loc[seeds]), list(100.0 * right.loc[seeds]))


def _finish(board: pd.DataFrame, conditions: tuple[str, ...]) -> pd.DataFrame:
    """Everything that needs all rows: Holm, verdicts, detectable differences, ranks, order."""
    # Planned comparisons, so that runs that diverged do not make the others look surer.
    family = ~board["verdict"].isin(["baseline", "no baseline"])
    adjusted = holm(list(board.loc[family, "p"]))
    board["p_holm"] = board["p_holm"].astype("float64")
    board.loc[family, "p_holm"] = adjusted
    significant = board["p_holm"] <= ALPHA
    board.loc[significant & (board["difference"] > 0), "verdict"] = "better"
    board.loc[significant & (board["difference"] < 0), "verdict"] = "worse"
    level = ALPHA / max(1, len(adjusted))
    board["detectable"] = [
        # No spread at all says that the seeds agree, not that any difference would be seen.
        detectable_difference(std, int(n), level, POWER) if std > 0 else NAN
        for std, n in zip(board["detectable"].astype("float64"), board["n_pairs"], strict=True)
    ]
    ranks = board.groupby("condition", sort=False)["test_accuracy"].rank(method="min", ascending=False)
    board["rank"] = ranks.astype("Int64")
    numeric = [name for name in board.columns if name in _FLOATS or name.endswith("_error")]
    board[numeric] = board[numeric].astype("float64")
    place: Mapping[str, int] = {condition: i for i, condition in enumerate(conditions)}
    order = np.lexsort(
        [
            np.arange(len(board)),
            ranks.fillna(np.inf).to_numpy(),
            board["condition"].map(place).to_numpy(float),
        ]
    )
    return board.iloc[order].reset_index(drop=True)


_FLOATS = frozenset(
    name
    for name in (*LEADERBOARD_COLUMNS, *HEADLINE_MEASURES)
    if not name.startswith("n_") and name not in ("condition", "optimizer", "rank", "verdict")
)
