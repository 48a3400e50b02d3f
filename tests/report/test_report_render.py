from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from sharpbench.errors import InvalidInput
from sharpbench.report import Report, render
from sharpbench.report.columns import FRAMES_SCHEMA_VERSION

FILES = {
    "index.html",
    "leaderboard.csv",
    "leaderboard.md",
    *(f"figures/{name}.png" for name in ("accuracy", "sharpness-gap", "spectral-density")),
    *(
        f"frames/{name}.parquet"
        for name in ("runs", "history", "measures", "densities", "leaderboard", "link")
    ),
}


def _files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_it_writes_the_promised_files(digits_report: Report) -> None:
    assert set(_files(digits_report.page.parent)) == FILES
    assert digits_report.page.name == "index.html"
    assert len(digits_report.tables) == 2
    assert len(digits_report.problems) == 3


def test_another_process_writes_the_same_bytes(digits: Path, digits_report: Report, tmp_path: Path) -> None:
    """Nothing may hang on hash seeds or on what was drawn before; and torch stays out."""
    code = (
        "import sys; from pathlib import Path; from sharpbench.report import render;"
        "render(Path(sys.argv[1]), Path(sys.argv[2])); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(digits), str(tmp_path)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, timeout=120, env=environment)
    assert _files(tmp_path) == _files(digits_report.page.parent)


def test_frames_read_back(digits_report: Report) -> None:
    path = digits_report.page.parent / "frames" / "runs.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), digits_report.frames.runs, check_dtype=False)
    metadata = pq.read_metadata(path).metadata
    assert metadata[b"sharpbench_frames_schema"] == str(FRAMES_SCHEMA_VERSION).encode()


def test_the_default_place_is_inside_out_and_is_not_read_again(make_out) -> None:
    out, _ = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=2, faults=False)
    report = render(out)
    assert report.page == out / "report" / "index.html"
    before = _files(out / "report")
    render(out)
    assert _files(out / "report") == before


def test_no_finished_run_gives_a_page_that_says_so(make_out) -> None:
    out, entries = make_out(optimizers=("sgd", "sam"), noises=(0.0, 0.5), seeds=2, faults=False)
    for entry in entries[1:]:
        (out / "runs" / entry["run_id"] / "result.json").unlink()
    first = out / "runs" / entries[0]["run_id"] / "result.json"
    first.write_text(json.dumps(json.loads(first.read_text()) | {"status": "diverged", "metrics": None}))
    report = render(out)
    text = report.page.read_text(encoding="utf-8")
    assert "0 of 8 planned runs finished (1 diverged, 7 missing)." in text
    assert "There is nothing to compare yet." in text
    assert 'id="figures"' not in text
    assert len(report.leaderboard) == 4
    assert len(report.link) == 0


def test_an_empty_plan_gives_a_page(make_out) -> None:
    out, _ = make_out(optimizers=("sgd",), noises=(0.0,), seeds=1, faults=False)
    plan = json.loads((out / "plan.json").read_text())
    (out / "plan.json").write_text(json.dumps(plan | {"runs": [], "baseline": None}))
    report = render(out)
    assert len(report.leaderboard) == 0
    assert "0 of 0 planned runs finished." in report.page.read_text(encoding="utf-8")


def test_runs_without_measures_still_make_a_report(make_out) -> None:
    out, entries = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=2, faults=False)
    for entry in entries:
        for name in ("measures.parquet", "density.parquet"):
            (out / "runs" / entry["run_id"] / name).unlink()
    report = render(out)
    assert [path.name for path in (out / "report" / "figures").iterdir()] == ["accuracy.png"]
    assert len(report.link) == 0
    assert "trace" not in report.leaderboard.columns


def test_figures_that_are_no_longer_true_do_not_stay(make_out) -> None:
    out, entries = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=2, faults=False)
    render(out)
    for entry in entries:
        (out / "runs" / entry["run_id"] / "measures.parquet").unlink()
    render(out)
    assert {p.name for p in (out / "report" / "figures").iterdir()} == {
        "accuracy.png",
        "spectral-density.png",
    }


def test_a_wrong_directory_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="output directory of `sharpbench run`"):
        render(tmp_path, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_link_finds_the_built_in_relation(digits_report: Report) -> None:
    link = digits_report.link.set_index(["gap", "measure"])
    row = link.loc[("accuracy_gap", "trace")]
    assert row["runs"] == 34
    assert row["configurations"] == 12
    assert row["kendall_low"] > 0
    assert row["granulated_optimizer"] > 0.5
    # Monotone functions of one another rank alike.
    assert row["kendall"] == link.loc[("accuracy_gap", "frobenius_squared"), "kendall"]
    assert link.loc[("loss_gap", "lambda_min"), "kendall"] == pytest.approx(
        -link.loc[("loss_gap", "trace"), "kendall"]
    )


def test_two_hundred_and_forty_runs(make_out) -> None:
    names = tuple(f"optimizer-{i}" for i in range(20))
    out, _ = make_out(optimizers=names, noises=(0.0, 0.2, 0.4), seeds=4, faults=False, points=101)
    report = render(out)
    assert len(report.frames.done) == 240
    # Figures of so many runs are pictures: a vector each would be tens of megabytes.
    assert report.page.stat().st_size < 3e6
