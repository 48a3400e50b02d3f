from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sharpbench.errors import InvalidInput
from sharpbench.report import collect
from sharpbench.report.columns import DENSITY, HISTORY, MEASURES, RUN_COLUMNS


def test_one_row_per_planned_run_in_order(digits: Path) -> None:
    frames = collect(digits)
    planned = json.loads((digits / "plan.json").read_text())["runs"]
    assert list(frames.runs["run_id"]) == [entry["run_id"] for entry in planned]
    assert frames.runs["status"].value_counts().to_dict() == {"done": 34, "diverged": 1, "missing": 1}
    assert frames.plan.planned == 36
    assert frames.plan.axes == ("label_noise",)
    assert frames.plan.baseline == "sgd"
    assert frames.plan.conditions == ("label_noise = 0", "label_noise = 0.5")


def test_columns_are_the_documented_ones(digits: Path) -> None:
    frames = collect(digits)
    keys = ["run_id", "optimizer", "condition", "seed"]
    assert list(frames.runs.columns)[: len(RUN_COLUMNS)] == list(RUN_COLUMNS)
    assert list(frames.history.columns) == [*keys, *HISTORY]
    assert list(frames.measures.columns) == [*keys, *MEASURES]
    assert list(frames.densities.columns) == [*keys, *DENSITY]
    assert len(frames.history) == 35 * 4  # the diverged run has a history, and no measures
    assert frames.measures["run_id"].nunique() == 34


def test_numbers_are_the_files_own(digits: Path) -> None:
    frames = collect(digits)
    row = frames.runs.iloc[7]
    folder = digits / "runs" / row["run_id"]
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert {name: row[name] for name in metrics} == metrics
    measured = pd.read_parquet(folder / "measures.parquet").set_index("measure")
    assert row["trace"] == measured.loc["trace", "value"]
    assert row["phi_psi_mu:trace@radius_std_error"] == measured.loc["phi_psi_mu:trace@radius", "std_error"]


def test_unfinished_runs_have_a_reason_and_no_numbers(digits: Path) -> None:
    frames = collect(digits)
    lost = frames.runs[frames.runs["status"] != "done"]
    assert list(lost["reason"]) == ["loss is not finite at epoch 2", "not started"]
    assert lost[["test_accuracy", "trace"]].isna().all(axis=None)
    assert "diverged: trace-sam, label_noise = 0.5, seed 0" in frames.problems[0]
    assert frames.problems[-1].endswith("(see the intervals): log_determinant in 34 of 34 runs")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    metrics = changes.pop("metrics", {})
    content |= changes
    if isinstance(metrics, dict):
        content["metrics"] |= metrics
    else:
        content["metrics"] = metrics
    path.write_text(json.dumps(content))


def _without_column(path: Path, name: str) -> None:
    pd.read_parquet(path).drop(columns=name).to_parquet(path)


def _as_text(path: Path) -> None:
    frame = pd.read_parquet(path)
    frame["value"] = "many"
    frame.to_parquet(path)


def _twice(path: Path) -> None:
    frame = pd.read_parquet(path)
    pd.concat([frame, frame.head(1)]).to_parquet(path)


DAMAGE = {
    "truncated result": (lambda d: _truncate(d / "result.json"), "result.json is not JSON"),
    "empty result": (lambda d: (d / "result.json").write_text(""), "result.json is not JSON"),
    "a list": (lambda d: (d / "result.json").write_text("[1]"), "result.json holds a list"),
    "deep nesting": (lambda d: (d / "result.json").write_text("[" * 100_000), "result.json is not JSON"),
    "another version": (lambda d: _edit(d / "result.json", schema_version=2), "schema_version 2"),
    "another run": (lambda d: _edit(d / "result.json", run_id="0" * 16), "belongs to run '0000000000000000'"),
    "odd status": (
        lambda d: _edit(d / "result.json", status="fine"),
        "status 'fine'; allowed: done, diverged",
    ),
    "no metrics": (lambda d: _edit(d / "result.json", metrics=None), "done but has no metrics"),
    "percent": (lambda d: _edit(d / "result.json", metrics={"test_accuracy": 97.0}), "fraction in [0, 1]"),
    "not a number": (lambda d: _edit(d / "result.json", metrics={"test_loss": math.nan}), "finite number"),
    "text": (
        lambda d: _edit(d / "result.json", steps="many"),
        "steps in result.json must be a finite number",
    ),
    "no accuracy": (
        lambda d: _edit(d / "result.json", metrics={"test_accuracy": None}),
        "has no test_accuracy",
    ),
    "wrong gap": (lambda d: _edit(d / "result.json", metrics={"accuracy_gap": 0.5}), "accuracy_gap is 0.5"),
    "gap against the other side": (
        lambda d: _edit(d / "result.json", metrics={"noisy_test_accuracy": 0.01}),
        "but the metrics beside it give",
    ),
    "truncated measures": (lambda d: _truncate(d / "measures.parquet"), "measures.parquet can't be read"),
    "empty density": (lambda d: (d / "density.parquet").write_bytes(b""), "density.parquet can't be read"),
    "truncated history": (lambda d: _truncate(d / "history.parquet"), "history.parquet can't be read"),
    "missing column": (lambda d: _without_column(d / "measures.parquet", "value"), "has no column value"),
    "wrong type": (lambda d: _as_text(d / "measures.parquet"), "column value is not double"),
    "a measure twice": (lambda d: _twice(d / "measures.parquet"), "names a measure twice"),
    "provenance": (lambda d: (d / "provenance.json").write_text("{"), "provenance.json is not JSON"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_makes_a_damaged_run_and_nothing_else(make_out, kind: str) -> None:
    out, entries = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=2, faults=False)
    before = collect(out).runs
    damage, reason = DAMAGE[kind]
    damage(out / "runs" / entries[1]["run_id"])
    frames = collect(out)
    assert list(frames.runs["status"]) == ["done", "damaged", "done", "done"]
    row = frames.runs.iloc[1]
    assert reason in row["reason"]
    assert "\n" not in row["reason"]
    assert np.isnan([row["test_accuracy"], row["steps"], row["trace"]]).all()
    for frame in (frames.history, frames.measures, frames.densities):
        assert entries[1]["run_id"] not in set(frame["run_id"])
    others = [0, 2, 3]
    pd.testing.assert_frame_equal(frames.runs.iloc[others], before.iloc[others])
    assert frames.problems[0].startswith(
        f"damaged: sgd, label_noise = 0, seed 1 (run {entries[1]['run_id']}):"
    )


def test_failed_and_unfinished_runs(make_out) -> None:
    out, entries = make_out(optimizers=("sgd",), noises=(0.0,), seeds=3, faults=False)
    folders = [out / "runs" / entry["run_id"] for entry in entries]
    (folders[0] / "result.json").unlink()
    (folders[0] / "error.log").write_text("Traceback:\n  File x\nOutOfMemoryError: \x1b[31mall of it\n\n")
    (folders[1] / "result.json").unlink()
    frames = collect(out)
    assert list(frames.runs["status"]) == ["failed", "missing", "done"]
    assert list(frames.runs["reason"][:2]) == ["OutOfMemoryError: �[31mall of it", "started, not finished"]


def test_optional_files_may_be_absent(make_out) -> None:
    out, entries = make_out(optimizers=("sgd",), noises=(0.0,), seeds=1, faults=False)
    for name in ("measures.parquet", "density.parquet", "history.parquet", "provenance.json"):
        (out / "runs" / entries[0]["run_id"] / name).unlink()
    frames = collect(out)
    assert list(frames.runs["status"]) == ["done"]
    assert len(frames.measures) == len(frames.densities) == len(frames.history) == 0
    assert frames.measure_names == ()


def test_strangers_are_named_and_left_out(make_out) -> None:
    out, _ = make_out(optimizers=("sgd",), noises=(0.0,), seeds=1, faults=False)
    (out / "runs" / "ffffffffffffffff").mkdir()
    frames = collect(out)
    assert len(frames.runs) == 1
    assert "1 run directory is not in the plan and left out" in frames.problems


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.update(schema_version=9), "schema_version must be 1, but got 9"),
        (lambda p: p.update(runs={}), "runs must be a list"),
        (lambda p: p.update(axes="label_noise"), "axes must be a list of names"),
        (lambda p: p.update(axes=["status"]), "an axis can't be called status"),
        (lambda p: p["runs"][0].update(run_id="../../../../etc"), "run_id must be 16 hex digits"),
        (lambda p: p["runs"][0].update(condition={}), "condition has no value for label_noise"),
        (lambda p: p["runs"][0].update(spec={}), "spec needs optimizer and task"),
        (lambda p: p["runs"].insert(0, 3), r"runs\[0\] must be an object"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(make_out, change, said: str) -> None:
    out, _ = make_out(optimizers=("sgd",), noises=(0.0,), seeds=1, faults=False)
    plan = json.loads((out / "plan.json").read_text())
    change(plan)
    (out / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(InvalidInput, match=said) as caught:
        collect(out)
    assert "\n" not in str(caught.value)


def test_no_plan_no_report(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no plan.json; a report is made from an output directory"):
        collect(tmp_path)
    with pytest.raises(InvalidInput, match="does not exist"):
        collect(tmp_path / "nowhere")
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InvalidInput, match="plan.json is not JSON"):
        collect(tmp_path)


def test_axes_of_any_kind_make_clean_columns(make_out) -> None:
    out, _ = make_out(optimizers=("sgd", "sam"), noises=(0.0, 0.5), seeds=1, faults=False)
    plan = json.loads((out / "plan.json").read_text())
    for entry, mixed in zip(plan["runs"], (1, "auto", None, [1, 2]), strict=True):
        entry["condition"] = {"width": mixed, "label_noise": entry["condition"]["label_noise"], "seed": 0}
    plan |= {"axes": ["width", "label_noise", "seed"], "baseline": "nobody"}
    (out / "plan.json").write_text(json.dumps(plan))
    frames = collect(out)
    assert frames.plan.axes == ("width", "label_noise")
    assert list(frames.runs["width"]) == ["1", "auto", "null", "[1, 2]"]
    assert frames.plan.conditions[3] == "width = [1, 2], label_noise = 0.5"
    assert frames.plan.baseline is None
    assert "the baseline 'nobody' is not among the optimizers" in frames.problems[0]
