"""Every file of a run, damaged in every way: named by status, doctor and report, and run again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from faults_suite import PLAN, TIMES
from fuzz_calls import WHOLE_RUNS
from typer.testing import CliRunner

from sharpbench.bench.compare import difference
from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.store import Store
from sharpbench.cli import app
from sharpbench.report import collect

FILES = [
    "spec.json", "provenance.json", "labels.parquet", "history.parquet", "measures.parquet",
    "density.parquet", "model.safetensors", "result.json",
]  # fmt: skip
VICTIM, OTHER = PLAN.runs[1].run_id, PLAN.runs[2].run_id
COPY = Settings("fuzz_calls:run_by_copy")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "garbled":  # the same size
        middle = len(content) // 2
        path.write_bytes(
            content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 8]) + content[middle + 8 :]
        )
    elif how == "of another run":
        other = (path.parent.parent / OTHER / path.name).read_bytes()
        # Two runs of one process that begin in the same second have the same provenance.
        path.write_bytes(other if other != content else other.replace(b'"threads": 1', b'"threads": 2'))
    else:
        path.unlink()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "out"
    run_plan(PLAN, out, "inline", Settings())
    return out


@pytest.mark.parametrize("how", ["truncated", "emptied", "garbled", "of another run", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_the_run_repeated(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    damage(Store(out).directory(VICTIM) / name, how)
    gone = name == "result.json" and how == "missing"  # then it has simply not ended
    checked = CliRunner().invoke(app, ["doctor", str(out)])
    assert checked.exit_code == (0 if gone else 1)
    if not gone:
        (line,) = [line for line in checked.stdout.splitlines() if line.startswith("WRONG")]
        assert f"runs/{VICTIM}" in line
        assert name in line
    status = CliRunner().invoke(app, ["status", str(out)])
    assert status.exit_code == 0
    if how in ("truncated", "emptied"):
        assert "1 damaged" in status.stdout
        assert f"damaged  {VICTIM}" in status.stdout
    runs = collect(out).runs.set_index("run_id")
    before = collect(whole).runs.set_index("run_id")
    # What goes into no table is compared by size here, and by content in doctor, merge and run.
    unread = name in ("spec.json", "labels.parquet", "model.safetensors") and how in (
        "garbled",
        "of another run",
    )
    if not unread:
        assert runs.loc[VICTIM, "status"] == ("missing" if gone else "damaged")
        assert runs.loc[VICTIM, list(runs.columns[runs.columns.get_loc("wall_seconds") :])].isna().all()
    others = [run_id for run_id in runs.index if run_id != VICTIM]
    pd.testing.assert_frame_equal(
        runs.loc[others].drop(columns=TIMES, errors="ignore"),
        before.loc[others].drop(columns=TIMES, errors="ignore"),
        check_exact=True,
    )
    monkeypatch.setenv(WHOLE_RUNS, str(whole / "runs"))
    outcomes = run_plan(PLAN, out, "inline", COPY)
    assert [(outcome.run_id, outcome.status) for outcome in outcomes] == [(VICTIM, "done")]
    assert difference(Store(whole).directory(VICTIM), Store(out).directory(VICTIM)) is None
    assert list(collect(out).runs["status"]) == ["done"] * 4


def test_a_damaged_checkpoint_begins_anew(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    directory = Store(out).directory(VICTIM)
    (directory / "result.json").unlink()
    (directory / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut off")
    run_plan(PLAN, out, "inline", Settings())
    assert difference(Store(whole).directory(VICTIM), directory) is None


@pytest.mark.parametrize("moment", [0, 4_000_000_000], ids=["1970", "2096"])
def test_clocks_that_were_wrong_when_files_were_written(whole: Path, tmp_path: Path, moment: int) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    for path in out.rglob("*"):
        os.utime(path, (moment, moment))
    assert run_plan(PLAN, out, "inline", Settings()) == []
    assert list(collect(out).runs["status"]) == ["done"] * 4


def test_nan_is_a_result_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "wild.toml").write_text(
        "[task]\nepochs = 2\n[matrix]\nseed = 0\n"
        '[[optimizer]]\nname = "sgd"\n[[optimizer]]\nname = "sam"\nlr = 1e30\n'
    )
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app,
        ["run", str(tmp_path / "wild.toml"), "--out", str(out), "--launcher", "inline", "--device", "cpu"],
    )
    assert result.exit_code == 0, result.output
    runs = collect(out).runs.set_index("optimizer")
    assert runs.loc["sam", "status"] == "diverged"
    assert "loss became" in runs.loc["sam", "reason"] or "not finite" in runs.loc["sam", "reason"]
    assert runs.loc["sgd", "status"] == "done"
    assert runs.loc["sam", ["test_accuracy", "train_loss"]].isna().all()
