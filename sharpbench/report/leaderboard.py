"""The leaderboard: one row per condition and optimizer, with everything needed to judge it.

Accuracies and their differences are in percent (points). A diverged run is a result, and the worst one:
optimizers are ranked by their median run with diverged runs below all others. Means, intervals, paired
differences and sharpness need numbers and are over finished runs only, so that beside each of them stands
how many runs diverged, and a difference that divergences contradict is not called a finding. Differences
are paired by seed within a condition, and Holm's correction runs over all comparisons with the baseline in
the report.
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
    median_with_failures,
    paired_difference,
)
from .sweeps import swept_parameters

ALPHA = 0.05
POWER = 0.8

LEADERBOARD_COLUMNS = {
    "condition": "the values of the condition axes",
    "optimizer": "label of the optimizer",
    "swept": "the parameters in whose values alone this row differs from other rows of its optimizer; the "
    "best of such rows is chosen on the test data",
    "rank": "place by the median run's test accuracy, a diverged run counting as worse than any finished "
    "one (where the median run diverged: by the share that diverged), among the optimizers with a finished "
    "run; ties share a place. A rank is not a finding: see the verdict",
    "n_planned": "runs planned",
    **{f"n_{status}": f"runs {status}" for status in STATUSES},
    "divergence_rate": "diverged runs as a share of those that diverged or finished",
    "median_with_failures": "test accuracy of the median run, diverged runs counting as worse than any "
    "finished one, percent; -inf where the median run diverged",
    "test_accuracy": "mean test accuracy of the finished runs, percent; diverged runs have none, so that the "
    "mean says nothing about them",
    "test_accuracy_half_width": "half the width of its 95 % t-interval over finished seeds, percent",
    "test_accuracy_median": "median of the finished runs alone, percent",
    "difference": "mean of (this − baseline) over the seeds both finished, percentage points",
    "difference_low": "lower end of its 95 % paired t-interval (not adjusted for multiplicity)",
    "difference_high": "upper end",
    "n_pairs": "seeds compared",
    "n_only_this_diverged": "seeds at which this diverged and the baseline finished: losses that the "
    "difference does not hold",
    "n_only_baseline_diverged": "seeds at which the baseline diverged and this finished: wins that it does "
    "not hold",
    "p": "two-sided p-value of the paired t-test",
    "p_holm": "p after Holm's correction over all comparisons with the baseline in this report",
    "effect_size": "Hedges' g: difference in standard deviations of the paired differences, "
    "corrected for few seeds",
    "detectable": "the smallest true difference that these seeds would show four times in five at the "
    "corrected level, percentage points",
    "verdict": "better / worse: significant after correction, and not contradicted by more divergences on "
    "the side said to be better; undecided: not; untested: fewer than two seeds in common, or all "
    "differences equal; baseline; no baseline: nothing to compare to",
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
    swept = swept_parameters(plan)
    rows = []
    for condition in plan.conditions:
        for optimizer in plan.optimizers:
            if (condition, optimizer) not in cells:
                continue
            runs = cells[condition, optimizer]
            against = cells.get((condition, plan.baseline)) if plan.baseline is not None else None
            row = {axis: runs[axis].iloc[0] for axis in plan.axes}
            row |= {"condition": condition, "optimizer": optimizer, "swept": ", ".join(swept[optimizer])}
            row |= _own_numbers(runs, present)
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
    diverged = int((runs["status"] == "diverged").sum())
    accuracy = mean_interval(100.0 * done["test_accuracy"])
    numbers: dict[str, object] = {"n_planned": len(runs)}
    numbers |= {f"n_{status}": int((runs["status"] == status).sum()) for status in STATUSES}
    numbers |= {
        "divergence_rate": diverged / (diverged + len(done)) if diverged + len(done) else NAN,
        "test_accuracy": accuracy.mean,
        "test_accuracy_half_width": accuracy.half_width,
        "test_accuracy_median": accuracy.median,
        "median_with_failures": median_with_failures(100.0 * done["test_accuracy"], diverged),
        "accuracy_gap": mean_interval(100.0 * done["accuracy_gap"]).mean,
        "gradient_evaluations": mean_interval(done["gradient_evaluations"]).mean,
        "wall_seconds": mean_interval(done["wall_seconds"]).mean,
        "n_pairs": 0,
        "n_only_this_diverged": 0,
        "n_only_baseline_diverged": 0,
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
        "n_only_this_diverged": _only_first_diverged(runs, against),
        "n_only_baseline_diverged": _only_first_diverged(against, runs),
        "p": compared.p,
        "effect_size": compared.effect_size,
        # The spread, until the size of the family is known.
        "detectable": compared.std,
        "cost_ratio": cost / base if base > 0 else NAN,
        "verdict": "untested" if math.isnan(compared.p) else "undecided",
    }


def _only_first_diverged(runs: pd.DataFrame, others: pd.DataFrame) -> int:
    """The number of seeds at which ``runs`` diverged and ``others`` finished."""
    diverged = set(runs.loc[runs["status"] == "diverged", "seed"])
    return len(diverged & set(others.loc[others["status"] == "done", "seed"]))


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
    # Who survived is selected: a higher mean of survivors is no finding for whoever diverged more often.
    losses = board["n_only_this_diverged"] - board["n_only_baseline_diverged"]
    board.loc[significant & (board["difference"] > 0) & (losses <= 0), "verdict"] = "better"
    board.loc[significant & (board["difference"] < 0) & (losses >= 0), "verdict"] = "worse"
    level = ALPHA / max(1, len(adjusted))
    board["detectable"] = [
        # No spread at all says that the seeds agree, not that any difference would be seen.
        detectable_difference(std, int(n), level, POWER) if std > 0 else NAN
        for std, n in zip(board["detectable"].astype("float64"), board["n_pairs"], strict=True)
    ]
    ranks = _ranks(board)
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


def _ranks(board: pd.DataFrame) -> pd.Series:
    """Places within each condition by the median run; nan for optimizers without a finished run."""
    ranked = board[board["n_done"] > 0]
    # Below every accuracy, so that only medians that diverged are told apart by the share that did.
    median = ranked["median_with_failures"].astype("float64")
    key = median.where(np.isfinite(median), -1.0 - ranked["divergence_rate"].astype("float64"))
    found = key.groupby(ranked["condition"], sort=False).rank(method="min", ascending=False)
    return found.reindex(board.index)


_FLOATS = frozenset(
    name
    for name in (*LEADERBOARD_COLUMNS, *HEADLINE_MEASURES)
    if not name.startswith("n_") and name not in ("condition", "optimizer", "swept", "rank", "verdict")
)
