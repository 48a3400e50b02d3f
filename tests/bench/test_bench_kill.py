"""Killed at any moment and started again: nothing is lost, repeated or half-done, nothing is orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bench_runs
import pytest

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.store import Store

HERE = Path(__file__).parent
LABELS = ["a", "b", "diverges"]
SEEDS, EPOCHS = 4, 15


def start(out: Path, workers: int = 2) -> subprocess.Popen[str]:
    paths = [str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    arguments = [out, ",".join(LABELS), SEEDS, EPOCHS, workers]
    return subprocess.Popen(
        [sys.executable, str(HERE / "bench_driver.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def finished(out: Path) -> set[str]:
    runs = bench_runs.make_plan(LABELS, SEEDS, EPOCHS).runs
    return {run.run_id for run in runs if Store(out).result(run.run_id) is not None}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    plan = bench_runs.make_plan(LABELS, SEEDS, EPOCHS)
    run_plan(plan, out, "local", Settings(execute=bench_runs.EXECUTE, workers=2))
    return bench_runs.content(out)


@pytest.mark.parametrize(
    ("how", "after"),
    [(signal.SIGKILL, 0), (signal.SIGKILL, 5), (signal.SIGTERM, 3), (signal.SIGINT, 3)],
)
def test_killed_launcher(
    tmp_path: Path, uninterrupted: dict[str, bytes], how: signal.Signals, after: int
) -> None:
    out = tmp_path / "out"
    process = start(out)
    try:
        wait_until(lambda: len(bench_runs.calls_of(out)) > after, 30, "no run was begun")
        if how is signal.SIGINT:  # Ctrl-C goes to the whole process group
            os.killpg(process.pid, how)
        else:
            os.kill(process.pid, how)
        _, errors = process.communicate(timeout=10)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: -2}[how]
    # One traceback at most, the driver's own: workers say nothing.
    assert errors.count("Traceback") <= (how is signal.SIGINT)
    workers = bench_runs.callers_of(out)
    wait_until(lambda: not any(map(bench_runs.alive, workers)), 2, "a worker outlived its launcher")

    kept = finished(out)
    assert len(kept) < len(LABELS) * SEEDS
    bench_runs.calls_file(out).unlink()
    plan = bench_runs.make_plan(LABELS, SEEDS, EPOCHS)
    run_plan(plan, out, "local", Settings(execute=bench_runs.EXECUTE, workers=2))
    assert sorted(bench_runs.calls_of(out)) == sorted({run.run_id for run in plan.runs} - kept)
    assert bench_runs.content(out) == uninterrupted


def test_two_launchers_share_one_directory(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    both = [start(out, workers=1), start(out, workers=1)]
    printed = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert len(bench_runs.calls_of(out)) == len(LABELS) * SEEDS, "a run was carried out twice"
    assert bench_runs.content(out) == uninterrupted
    for output, errors in printed:
        assert errors == ""
        here = [line for line in output.splitlines() if line.endswith("True")]
        assert here, "one launcher did nothing"


def test_a_worker_killed_from_outside(tmp_path: Path, uninterrupted: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    process = start(out, workers=1)
    wait_until(lambda: len(bench_runs.calls_of(out)) > 2, 30, "no run was begun")
    (victim,) = bench_runs.callers_of(out)
    os.kill(victim, signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert len(output.splitlines()) == len(LABELS) * SEEDS
    assert len(bench_runs.callers_of(out)) == 2
    assert bench_runs.content(out) == uninterrupted
