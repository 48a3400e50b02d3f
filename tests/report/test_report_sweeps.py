"""Rows that are values of one parameter are named as not tuned, everywhere a rank is shown."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from sharpbench.report import collect, leaderboard, render, to_markdown, to_rich
from sharpbench.report.sweeps import sweep_warning, swept_parameters

SWEEP = ("sgd", "sam rho=0.05", "sam rho=0.1")


def test_page_markdown_terminal_and_csv_say_that_nothing_was_tuned(make_out) -> None:
    out, _ = make_out(optimizers=SWEEP, seeds=2, faults=False)
    report = render(out)
    warning = "2 rows are values of swept parameters (rho), each ranked by test accuracy."
    assert any(sentence.startswith(warning) for sentence in report.summary)
    assert report.page.read_text(encoding="utf-8").count(warning) == 2  # summary and leaderboard
    assert "Not tuned: 2 rows" in (report.page.parent / "leaderboard.md").read_text(encoding="utf-8")
    console = Console(width=110, file=io.StringIO(), color_system=None)
    for table in report.tables:
        console.print(table)
    assert console.file.getvalue().count("2 rows are values of swept") == 1
    swept = report.leaderboard.drop_duplicates("optimizer").set_index("optimizer")["swept"].to_dict()
    assert swept == {"sgd": "", "sam rho=0.05": "rho", "sam rho=0.1": "rho"}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (({"rho": 0.1}, {"rho": 0.2}), ("rho",)),
        (({"rho": 0.1, "alpha": 1}, {"rho": 0.2, "alpha": 1}), ("rho",)),
        (({"rho": 0.1}, {"rho": 0.1}), ()),  # such as the base at twice the epochs
        (({}, {"rho": 0.1, "sampling": "antithetic"}), ()),  # another method, not another value
    ],
)
def test_a_sweep_is_the_same_optimizer_with_other_values(make_out, parameters, expected) -> None:
    out, _ = make_out(optimizers=("sgd", "sam one", "sam two"), noises=(0.0,), seeds=1, faults=False)
    plan = json.loads((out / "plan.json").read_text())
    for entry in plan["runs"][1:]:
        entry["spec"]["optimizer"] |= {"parameters": parameters[entry["label"] == "sam two"]}
    (out / "plan.json").write_text(json.dumps(plan))
    found = swept_parameters(collect(out).plan)
    assert (found["sam one"], found["sam two"], found["sgd"]) == (expected, expected, ())


def test_without_a_sweep_nothing_is_said(digits) -> None:
    board = leaderboard(collect(digits))
    assert sweep_warning(board) == ""
    assert (board["swept"] == "").all()
    assert "swept" not in to_markdown(board, "T")
    assert "swept" not in str(to_rich(board)[-1].caption)
