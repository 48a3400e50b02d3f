"""Results of another version are never mixed in silently."""

from __future__ import annotations

import json
from pathlib import Path

import bench_runs
import pytest

from sharpbench import __version__
from sharpbench.bench.diagnosis import diagnose
from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.store import Store
from sharpbench.errors import InvalidInput

SETTINGS = Settings(execute=bench_runs.EXECUTE)


def old_results(out: Path, labels: list[str]) -> None:
    plan = bench_runs.make_plan(labels)
    run_plan(plan, out, "inline", SETTINGS)
    for run in plan.runs:
        path = Store(out).directory(run.run_id) / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "sharpbench": "0.0.1"}))
    bench_runs.calls_file(out).unlink()


def test_it_is_refused_in_one_line_and_nothing_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    old_results(out, ["a", "b"])
    plan = bench_runs.make_plan(["a", "b", "c"])
    with pytest.raises(InvalidInput) as caught:
        run_plan(plan, out, "inline", SETTINGS)
    said = str(caught.value)
    assert f"holds 2 finished runs of sharpbench 0.0.1, and this is {__version__}" in said
    assert "--other-version accept" in said
    assert "--other-version redo" in said
    assert bench_runs.calls_of(out) == []
    assert any(f.level == "note" and "2 by 0.0.1" in f.text for f in diagnose(out))


@pytest.mark.parametrize(("choice", "new"), [("accept", 1), ("redo", 3)])
def test_the_choice(tmp_path: Path, choice: str, new: int) -> None:
    out = tmp_path / "out"
    old_results(out, ["a", "b"])
    plan = bench_runs.make_plan(["a", "b", "c"])
    outcomes = run_plan(plan, out, "inline", SETTINGS, other_version=choice)
    assert len(outcomes) == len(bench_runs.calls_of(out)) == new


def test_with_nothing_left_to_do_there_is_nothing_to_mix(tmp_path: Path) -> None:
    out = tmp_path / "out"
    old_results(out, ["a"])
    assert run_plan(bench_runs.make_plan(["a"]), out, "inline", SETTINGS) == []
