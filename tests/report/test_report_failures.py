"""A diverged run is a result, and the worst one: in ranks, medians, verdicts, tables and figures."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from rich.console import Console

from sharpbench.report import collect, leaderboard, render, to_csv, to_markdown, to_rich
from sharpbench.report.canvas import style
from sharpbench.report.figure_accuracy import accuracy_figure, overall_order
from sharpbench.report.statistics import median_with_failures
from sharpbench.report.strip import scale_of, strip
from sharpbench.report.tables import difference_text, mean_text, median_text, runs_text


def _result(out: Path, entry: dict[str, Any], accuracy: float | None) -> None:
    """Give a run this test accuracy; None: it diverged."""
    path = out / "runs" / entry["run_id"] / "result.json"
    result = json.loads(path.read_text())
    if accuracy is None:
        result |= {"status": "diverged", "reason": "loss is not finite", "metrics": None}
    else:
        result["metrics"] |= {
            "test_accuracy": accuracy,
            "train_accuracy": 1.0,
            "accuracy_gap": 1.0 - accuracy,
        }
    path.write_text(json.dumps(result))


@pytest.fixture
def survivors(make_out) -> Path:
    """Five seeds: "lucky" is the best by far in the two runs that did not diverge."""
    out, entries = make_out(optimizers=("sgd", "sam", "lucky"), noises=(0.0,), seeds=5, faults=False)
    accuracies = {
        "sgd": [0.90, 0.901, 0.902, 0.899, 0.90],
        "sam": [0.92, 0.923, 0.921, 0.919, 0.92],
        "lucky": [0.9701, 0.9712, None, None, None],
    }
    for entry in entries:
        _result(out, entry, accuracies[entry["label"]][entry["spec"]["seed"]])
    return out


def test_survivors_do_not_lead(survivors: Path) -> None:
    board = leaderboard(collect(survivors)).set_index("optimizer")
    assert board["rank"].to_dict() == {"sam": 1, "sgd": 2, "lucky": 3}
    lucky = board.loc["lucky"]
    assert lucky["median_with_failures"] == -math.inf
    assert lucky["divergence_rate"] == 0.6
    assert lucky["test_accuracy"] == pytest.approx(97.065)  # of the survivors, and marked as such
    assert (lucky["n_only_this_diverged"], lucky["n_only_baseline_diverged"]) == (3, 0)
    assert board.loc["sam", "verdict"] == "better"
    assert runs_text(lucky) == "2/5 †3 (60 %)"
    assert median_text(lucky) == "diverged"
    assert mean_text(lucky).endswith(" †")
    assert difference_text(lucky).endswith("†")


def test_a_difference_of_survivors_is_no_finding(survivors: Path) -> None:
    """Two survivors that agree to a hundredth of a point: p is small, and says nothing of the other three."""
    board = leaderboard(collect(survivors)).set_index("optimizer")
    assert board.loc["lucky", "p_holm"] < 0.05
    assert board.loc["lucky", "verdict"] == "undecided"
    summary = " ".join(render(survivors).summary)
    assert "lucky in 3 of 5 runs" in summary
    assert "lucky (+" not in summary


def test_a_baseline_that_diverges_more_makes_no_loser(make_out) -> None:
    out, entries = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=5, faults=False)
    sgd = [0.95, 0.951, 0.952, None, 0.95]
    for entry, accuracy in zip(entries, [*sgd, 0.90, 0.9011, 0.9021, 0.90, 0.9002], strict=True):
        _result(out, entry, accuracy)
    row = leaderboard(collect(out)).set_index("optimizer").loc["sam"]
    assert row["p_holm"] < 0.05
    assert row["difference"] < 0
    assert (row["n_only_this_diverged"], row["n_only_baseline_diverged"]) == (0, 1)
    assert row["verdict"] == "undecided"


def test_among_those_whose_median_diverged_the_rate_decides(make_out) -> None:
    names = ("sgd", "half", "most")
    out, entries = make_out(optimizers=names, noises=(0.0,), seeds=4, faults=False)
    accuracies = {"sgd": [0.1] * 4, "half": [0.8, 0.8, None, None], "most": [0.99, None, None, None]}
    for entry in entries:
        _result(out, entry, accuracies[entry["label"]][entry["spec"]["seed"]])
    board = leaderboard(collect(out))
    assert list(board["optimizer"]) == ["sgd", "half", "most"]
    assert list(board["rank"]) == [1, 2, 3]


def test_unfinished_runs_are_no_failures(digits: Path) -> None:
    board = leaderboard(collect(digits))
    row = board[(board["optimizer"] == "frob-sam") & (board["n_missing"] == 1)].iloc[0]
    assert row["divergence_rate"] == 0.0
    assert row["median_with_failures"] == row["test_accuracy_median"]


def test_an_optimizer_that_only_diverges_is_last_in_the_figures(make_out) -> None:
    out, entries = make_out(optimizers=("sgd", "sam", "asam"), noises=(0.0, 0.5), seeds=2, faults=False)
    for entry in entries:
        if entry["label"] == "asam" and entry["condition"]["label_noise"] == 0.0:
            _result(out, entry, None)
        elif entry["label"] == "asam":
            _result(out, entry, 0.99)
    # First of three and last of three: not the best over all conditions, as its finished runs alone are.
    assert overall_order(leaderboard(collect(out)))[0] != "asam"


def test_every_diverged_run_is_a_cross(survivors: Path) -> None:
    frames = collect(survivors)
    with style():
        axis = accuracy_figure(frames, leaderboard(frames)).axes[0]
    crosses = [c for c in axis.collections if isinstance(c, PathCollection) and list(c.get_sizes()) == [16]]
    assert sum(len(found.get_offsets()) for found in crosses) == 3
    drawn = crosses[0].get_offsets()
    assert len({round(x, 9) for x, _ in drawn}) == 3
    assert max(x for x, _ in drawn) < 90.0 - 0.1  # left of every accuracy
    assert axis.get_xlim()[0] < min(x for x, _ in drawn)


def test_the_small_picture_shows_diverged_runs() -> None:
    percent = pd.Series([90.0, 91.0])
    assert strip(percent, scale_of(percent), math.nan, diverged=2).count("lost") == 2
    assert "lost" not in strip(percent, scale_of(percent), math.nan)
    assert strip(pd.Series([], dtype=float), scale_of(percent), math.nan, diverged=1).count("<path") == 1


def test_tables_say_what_they_show(survivors: Path) -> None:
    board = leaderboard(collect(survivors))
    text = to_markdown(board, "T")
    assert "2/5 †3 (60 %) | diverged |" in text
    assert "ranked by the median test accuracy" in text
    back = pd.read_csv(io.StringIO(to_csv(board)))
    assert back["median_with_failures"].iloc[-1] == -math.inf
    console = Console(width=110, file=io.StringIO(), color_system=None)
    for table in to_rich(board):
        console.print(table)
    assert "diverged" in console.file.getvalue()
    assert max(map(len, console.file.getvalue().splitlines())) <= 110
    page = render(survivors).page.read_text(encoding="utf-8")
    assert "A run that diverged is a result" in page


def test_median_with_failures_by_hand() -> None:
    assert median_with_failures([3.0, 1.0, 2.0], 0) == 2.0
    assert median_with_failures([3.0, 1.0, 2.0], 2) == 1.0
    assert median_with_failures([3.0, 1.0], 2) == -math.inf  # one of the middle two failed
    assert median_with_failures([math.nan], 0) != median_with_failures([math.nan], 0)
