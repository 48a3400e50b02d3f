"""A real one-node Slurm, without accounting."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench_runs
import pytest
import required_tools
import slurm_node

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Outcome, Settings
from sharpbench.bench.progress import Progress
from sharpbench.bench.store import Store
from sharpbench.errors import InvalidInput

required_tools.imported("submitit", "pip install 'sharpbench[slurm]'")


@pytest.fixture(scope="module", autouse=True)
def _slurm() -> Iterator[None]:
    with slurm_node.one_node() as reason:
        if reason:
            required_tools.without("slurm", reason)
        yield


class Recorder:
    def __init__(self, on_progress: Callable[[Progress], None] = lambda message: None) -> None:
        self.messages: list[Progress] = []
        self.outcomes: list[Outcome] = []
        self.on_progress = on_progress

    def begin(self, todo, finished):
        pass

    def progress(self, message):
        self.messages.append(message)
        self.on_progress(message)

    def ended(self, outcome):
        self.outcomes.append(outcome)


def settings(said: list[str], **options: str) -> Settings:
    slurm = {"time": "5", "poll": "0.2", **options}
    return Settings(execute=bench_runs.EXECUTE, device="cpu", slurm=slurm, notice=said.append)


def test_an_array_carries_out_everything_and_names_what_died(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a", "diverges", "raises", "killed once", "killed"])
    said: list[str] = []
    watch = Recorder()
    outcomes = {o.run_id: o for o in run_plan(plan, out, "slurm", settings(said, runs="2"), watch)}
    by_label = {run.label: outcomes[run.run_id] for run in plan.runs}
    assert (by_label["a"].status, by_label["a"].attempts) == ("done", 1)
    assert (by_label["diverges"].status, by_label["diverges"].reason) == ("diverged", "the loss is nan")
    assert by_label["raises"].reason == "ValueError: no such luck"
    assert (by_label["killed once"].status, by_label["killed once"].attempts) == ("done", 2)
    assert "killed by SIGKILL" in by_label["killed"].reason
    assert len(watch.outcomes) == len(plan.runs)
    assert {m.run_id for m in watch.messages} == set(outcomes)
    (line,) = said
    assert line.startswith("Slurm array ")
    assert "3 task(s) for 5 runs" in line


def test_the_signal_before_the_time_limit_requeues_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a"], epochs=300)
    said: list[str] = []
    signalled: list[str] = []

    def on_progress(message: Progress) -> None:
        if message.epoch and not signalled:
            array = said[0].split()[2].rstrip(":")
            signalled.append(array)
            subprocess.run(["scancel", "--signal=USR2", array], check=True)

    (outcome,) = run_plan(plan, out, "slurm", settings(said), Recorder(on_progress))
    assert outcome.status == "done"
    begun = [int(line.split()[2]) for line in bench_runs.calls_file(out).read_text().splitlines()]
    assert len(begun) == 2
    assert begun[0] == 0 < begun[1], "the second attempt goes on from the checkpoint of the first"


def test_a_task_that_vanishes_is_a_failure_with_the_end_of_its_log(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a"], epochs=6000)
    said: list[str] = []
    watch = Recorder()

    def on_progress(message: Progress) -> None:
        if message.epoch and "killed" not in said:
            array = said[0].split()[2].rstrip(":")
            said.append("killed")
            subprocess.run(["scancel", "--signal=KILL", "--full", array], check=True)

    watch.on_progress = on_progress
    (outcome,) = run_plan(plan, out, "slurm", settings(said), watch)
    assert outcome.status == "failed"
    assert "left the queue without a result; its log ends:" in outcome.reason
    log = (Store(out).directory(outcome.run_id) / "error.log").read_text()
    assert "submitit" in log


def test_ctrl_c_cancels_the_array_and_the_run_keeps_its_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a"], epochs=6000)
    said: list[str] = []

    def on_progress(message: Progress) -> None:
        if message.epoch:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, out, "slurm", settings(said), Recorder(on_progress))
    finally:
        signal.signal(signal.SIGINT, before)
    assert said[-1].startswith("cancelled Slurm array ")
    checkpoint = Store(out).directory(plan.runs[0].run_id) / "checkpoint.pt"
    deadline = time.monotonic() + 30
    while not checkpoint.exists() or any(map(bench_runs.alive, bench_runs.callers_of(out))):
        assert time.monotonic() < deadline, "no checkpoint, or the run outlives its array"
        time.sleep(0.1)
    assert Store(out).state(plan.runs[0].run_id) == ("missing", "")


def test_what_sbatch_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="sbatch refuses: .*invalid partition"):
        run_plan(bench_runs.make_plan(["a"]), tmp_path / "out", "slurm", settings([], partition="nowhere"))
    assert os.environ["SLURM_CONF"]
