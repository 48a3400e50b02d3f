"""Places that fill up or can only be read, and devices that aren't there: for real, where root may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from faults_suite import PLAN, TEXT, TIMES, command
from required_tools import without

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.store import Store
from sharpbench.report import collect

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount things below the test's folder; skips, or fails, where that isn't allowed."""
    mounted: list[Path] = []

    def at(place: Path, *arguments: str) -> Path:
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True)
        if done.returncode:
            without("mount", f"mounting isn't allowed here: {done.stderr.strip()}")
        if place not in mounted:
            mounted.append(place)
        return place

    if os.geteuid() != 0:
        without("mount", "only root may mount")
    yield at
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def plain(error: str) -> None:
    assert "Traceback" not in error
    assert error.strip()


def test_a_disk_that_fills_up(tmp_path: Path, mount: Mount) -> None:
    (tmp_path / "small.toml").write_text(TEXT)
    # Room for the plan and one run, not for four.
    disk = mount(tmp_path / "disk", "-t", "tmpfs", "-o", "size=800k", "tmpfs")
    arguments = ["run", "small.toml", "--out", disk / "out", "--device", "cpu", "--quiet"]
    full = command(*arguments, "--launcher", "inline", cwd=tmp_path)
    assert full.returncode in (1, 2), full.stdout
    plain(full.stderr)
    assert "No space left" in full.stderr
    states = [Store(disk / "out").state(run.run_id)[0] for run in PLAN.runs]
    assert set(states) <= {"done", "failed", "missing"}
    assert states.count("done") < 4
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    again = command(*arguments, "--retry-failed", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    run_plan(PLAN, tmp_path / "undisturbed", "inline", Settings())
    left, right = (collect(out).runs for out in (disk / "out", tmp_path / "undisturbed"))
    times = [name for name in left.columns if name in TIMES]
    pd.testing.assert_frame_equal(left.drop(columns=times), right.drop(columns=times), check_exact=True)


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    # The same for those who can't mount: no file may exceed 100 KiB, so that no weights fit.
    (tmp_path / "small.toml").write_text(TEXT)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 1024, 100 * 1024))"
    arguments = ["run", "small.toml", "--out", "out", "--device", "cpu", "--quiet", "--launcher", "inline"]
    full = command(*arguments, cwd=tmp_path, before=limit)
    assert full.returncode in (1, 2)
    plain(full.stderr)
    assert "large" in full.stderr
    assert not list((tmp_path / "out").rglob("result.json"))
    assert not list((tmp_path / "out").rglob("*.tmp*"))


def test_a_directory_that_can_only_be_read(tmp_path: Path, mount: Mount) -> None:
    (tmp_path / "small.toml").write_text(TEXT)
    run_plan(PLAN.model_copy(update={"runs": PLAN.runs[:2]}), tmp_path / "out", "inline", Settings())
    mount(tmp_path / "out", "--bind", str(tmp_path / "out"))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path / "out")], check=True)
    for verb in (["run", "small.toml", "--out", "out", "--device", "cpu"], ["report", "out"]):
        refused = command(*verb, cwd=tmp_path)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert line.startswith("error: ")
        assert "Read-only file system" in line
    status = command("status", "out", cwd=tmp_path)
    assert (status.returncode, status.stderr) == (0, "")
    assert "2 runs planned: 2 done" in status.stdout
    elsewhere = command("report", "out", "--out", "mailed", cwd=tmp_path)
    assert elsewhere.returncode == 0, elsewhere.stderr
    checked = command("doctor", "out", cwd=tmp_path)
    assert checked.returncode == 1
    assert "can't be written (Read-only file system)" in checked.stdout


@pytest.mark.skipif(torch.cuda.device_count() > 9, reason="there are that many devices")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    one = PLAN.model_copy(update={"runs": PLAN.runs[:1]})
    (outcome,) = run_plan(one, tmp_path / "out", "inline", Settings(device="cuda:9"))
    assert outcome.status == "failed"
    assert outcome.reason
    assert not list((tmp_path / "out").rglob("result.json"))
    (outcome,) = run_plan(one, tmp_path / "out", "inline", Settings(), retry_failed=True)
    assert outcome.status == "done"
