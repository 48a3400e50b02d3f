"""sharpbench check: what it prints and how it exits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sharpbench.cli import Commands
from sharpbench.cli.check import check
from sharpbench.optim import OPTIMIZERS
from sharpbench.optim.conformance import CHECKS

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
app.command()(check)


@app.callback()
def _a_group_of_commands() -> None:
    """As in the real command line, check is one command of several."""


def run(*arguments: str) -> Any:
    # A width of its own: tox and pytest-xdist set COLUMNS, and cells wrap.
    return CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "200"})


def test_a_good_one_exits_with_0() -> None:
    result = run("sam", "--quick", "--set", "rho=0.1")
    assert result.exit_code == 0, result.output
    assert "sam: passed" in result.output
    assert "FAIL" not in result.output


def test_a_broken_one_exits_with_1_and_names_defect_and_cause() -> None:
    result = run("broken_optimizers:RestoresBySubtraction", "--quick")
    assert result.exit_code == 1
    assert "weights restored exactly" in result.output
    assert "usual cause: restored by subtraction" in result.output
    assert "2 checks failed" in result.output


def test_json_is_for_programs() -> None:
    result = run("broken_optimizers:NewMask", "--quick", "--json")
    assert result.exit_code == 1
    (found,) = json.loads(result.stdout)
    assert (found["target"], found["passed"], found["form"]) == (
        "broken_optimizers:NewMask",
        False,
        "closure",
    )
    assert len(found["findings"]) == len(CHECKS) - 1
    failed = [f for f in found["findings"] if f["status"] == "fail"]
    assert [f["check"] for f in failed] == ["same dropout mask in all passes"]
    assert set(failed[0]) == {"check", "status", "detail", "usual_cause"}


def test_all_of_ours() -> None:
    result = run("--all", "--quick")
    assert result.exit_code == 0, result.output
    assert f"{len(OPTIMIZERS)} optimizers, 0 with failures" in result.output
    assert all(name in result.output for name in OPTIMIZERS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one optimizer"),
        (("sam", "--all"), "give one optimizer"),
        (("smm",), "did you mean 'sam'"),
        (("sam", "--set", "rho"), "--set must be NAME=VALUE"),
        (("sam", "--set", "rho=big"), "rho must be a number"),
        (("--all", "--set", "rho=0.1"), "--set goes with one optimizer"),
        (("no_such_module:SAM",), "can't import 'no_such_module'"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
