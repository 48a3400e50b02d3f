from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from sharpbench.report import collect, holm, leaderboard, to_csv, to_markdown, to_rich
from sharpbench.report.statistics import detectable_difference


@pytest.fixture(scope="module")
def board(digits: Path) -> pd.DataFrame:
    return leaderboard(collect(digits))


def test_every_number_against_scipy_from_the_files(digits: Path, board: pd.DataFrame) -> None:
    runs = collect(digits).runs
    done = runs[runs["status"] == "done"]
    accuracy = done.pivot(index=["condition", "seed"], columns="optimizer", values="test_accuracy") * 100
    p_values = []
    for _, row in board.iterrows():
        own = accuracy.loc[row["condition"], row["optimizer"]].dropna()
        low, high = stats.t.interval(0.95, len(own) - 1, own.mean(), stats.sem(own))
        assert row["test_accuracy"] == pytest.approx(own.mean())
        assert row["test_accuracy_half_width"] == pytest.approx((high - low) / 2)
        assert row["test_accuracy_median"] == pytest.approx(own.median())
        ended = [*own, *[-np.inf] * row["n_diverged"]]
        assert row["median_with_failures"] == pytest.approx(np.median(ended))
        assert row["divergence_rate"] == row["n_diverged"] / len(ended)
        if row["optimizer"] == "sgd":
            continue
        both = accuracy.loc[row["condition"], [row["optimizer"], "sgd"]].dropna()
        test = stats.ttest_rel(both[row["optimizer"]], both["sgd"])
        assert row["n_pairs"] == len(both)
        assert row["p"] == pytest.approx(test.pvalue)
        assert row["difference"] == pytest.approx((both[row["optimizer"]] - both["sgd"]).mean())
        assert row["difference_low"] == pytest.approx(test.confidence_interval().low)
        spread = (both[row["optimizer"]] - both["sgd"]).std()
        assert row["detectable"] == pytest.approx(detectable_difference(spread, len(both), 0.05 / 10))
        p_values.append(row["p"])
    assert list(board.loc[board["optimizer"] != "sgd", "p_holm"]) == pytest.approx(holm(p_values))


def test_counts_order_ranks_and_verdicts(board: pd.DataFrame) -> None:
    assert list(board["condition"].unique()) == ["label_noise = 0", "label_noise = 0.5"]
    for _, rows in board.groupby("condition"):
        assert list(rows["rank"]) == [1, 2, 3, 4, 5, 6]
        assert rows["median_with_failures"].is_monotonic_decreasing
    noisy = board[board["label_noise"] == 0.5].set_index("optimizer")
    assert noisy.loc["trace-sam", ["n_planned", "n_done", "n_diverged"]].tolist() == [3, 2, 1]
    assert noisy.loc["frob-sam", ["n_done", "n_missing"]].tolist() == [2, 1]
    for _, row in board.iterrows():
        significant = row["p_holm"] <= 0.05
        expected = ("better" if row["difference"] > 0 else "worse") if significant else "undecided"
        assert row["verdict"] == ("baseline" if row["optimizer"] == "sgd" else expected)
    assert (noisy["verdict"] == "better").any()
    assert set(board["cost_ratio"]) == {1.0, 2.0}


def test_sharpness_columns_are_means_with_combined_errors(digits: Path, board: pd.DataFrame) -> None:
    runs = collect(digits).runs
    own = runs[(runs["optimizer"] == "asam") & (runs["label_noise"] == 0.5)]
    row = board[(board["optimizer"] == "asam") & (board["label_noise"] == 0.5)].iloc[0]
    assert row["trace"] == pytest.approx(own["trace"].mean())
    propagated = np.sqrt((own["trace_std_error"] ** 2).sum()) / 3
    assert row["trace_error"] == pytest.approx(max(own["trace"].sem(), propagated))


def test_one_seed_has_means_and_no_verdict(make_out) -> None:
    out, _ = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=1, faults=False)
    board = leaderboard(collect(out))
    row = board[board["optimizer"] == "sam"].iloc[0]
    assert row["verdict"] == "untested"
    assert row["n_pairs"] == 1
    assert row[["test_accuracy_half_width", "p", "p_holm", "effect_size", "detectable"]].isna().all()
    assert "nan" not in to_markdown(board, "one seed").lower()


def test_a_diverged_baseline_leaves_nothing_to_test(make_out, request) -> None:
    out, entries = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=2, faults=False)
    for entry in entries[:2]:
        path = out / "runs" / entry["run_id"] / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "diverged", "metrics": None}))
    board = leaderboard(collect(out)).set_index("optimizer")
    assert board.loc["sam", "verdict"] == "untested"
    assert board.loc["sgd", "verdict"] == "baseline"
    assert pd.isna(board.loc["sgd", "rank"])
    assert list(board.index) == ["sam", "sgd"]
    assert "2" in to_rich(board.reset_index())[0].columns[2]._cells[1].plain


def test_comparisons_lost_to_divergence_still_count_in_the_family(make_out) -> None:
    out, entries = make_out(optimizers=("sgd", "sam", "asam"), noises=(0.0,), seeds=3, faults=False)
    for entry in entries[6:]:
        path = out / "runs" / entry["run_id"] / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "diverged", "metrics": None}))
    board = leaderboard(collect(out)).set_index("optimizer")
    assert board.loc["sam", "p_holm"] == pytest.approx(min(1.0, 2 * board.loc["sam", "p"]))


def test_equal_accuracies_share_a_rank(make_out) -> None:
    out, entries = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=2, faults=False)
    for entry in entries:
        path = out / "runs" / entry["run_id"] / "result.json"
        result = json.loads(path.read_text())
        metrics = result["metrics"] | {"test_accuracy": 0.9, "train_accuracy": 1.0, "accuracy_gap": 0.1}
        path.write_text(json.dumps(result | {"metrics": metrics}))
    board = leaderboard(collect(out))
    assert list(board["rank"]) == [1, 1]
    row = board[board["optimizer"] == "sam"].iloc[0]
    assert (row["difference"], row["p"], row["verdict"]) == (0.0, 1.0, "undecided")
    assert row["test_accuracy_half_width"] == 0.0


def _printed(board: pd.DataFrame, width: int = 110) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for table in to_rich(board):
        console.print(table)
    return console.file.getvalue()


def test_terminal_tables_fit_and_cut_no_number(digits: Path, board: pd.DataFrame) -> None:
    text = _printed(board)
    assert max(map(len, text.splitlines())) <= 110
    assert "…" not in text
    assert "+5.61 [+5.25, +5.97] ▲" in text
    assert "2/3 †1" in text


def test_terminal_tables_fit_with_long_names(make_out) -> None:
    names = ("sgd", *(f"a-very-long-optimizer-name-{i} (rho=0.05)" for i in range(5)))
    out, _ = make_out(optimizers=names, seeds=3)
    text = _printed(leaderboard(collect(out)))
    assert max(map(len, text.splitlines())) <= 110
    for line in text.splitlines():
        assert line.count("…") <= 1  # only the name is shortened


def test_terminal_text_is_not_markup(make_out) -> None:
    out, _ = make_out(optimizers=("sgd", "[bold red]sam[/]"), noises=(0.0,), seeds=2, faults=False)
    assert "[bold red]sam[/]" in _printed(leaderboard(collect(out)))


def test_markdown_escapes_and_has_every_row(make_out) -> None:
    out, _ = make_out(optimizers=("sgd", "a|b <i>*x*"), noises=(0.0,), seeds=2, faults=False)
    text = to_markdown(leaderboard(collect(out)), "T")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert r"a\|b &lt;i&gt;\*x\*" in text
    columns = {line.replace(r"\|", "").count("|") for line in lines}
    assert len(columns) == 1


def test_csv_reads_back_exactly(board: pd.DataFrame) -> None:
    back = pd.read_csv(io.StringIO(to_csv(board)))
    assert list(back.columns) == list(board.columns)
    np.testing.assert_array_equal(back["test_accuracy"], board["test_accuracy"])
    rows = list(csv.DictReader(io.StringIO(to_csv(board))))
    baseline = next(row for row in rows if row["verdict"] == "baseline")
    assert baseline["p"] == ""
