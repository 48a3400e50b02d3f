"""Runs that take milliseconds, for the launchers: what they do is told by the optimizer's label.

Each writes the files of a run (result.json last) with content that depends on the spec alone, and adds a
line to ``calls.txt`` beside the output directory, so that tests can count who ran what.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from sharpbench.bench.plan import Plan, PlannedRun
from sharpbench.bench.progress import Listener, Progress
from sharpbench.errors import Interrupted, RunFailed
from sharpbench.files import write_json, write_text
from sharpbench.spec import OptimizerSpec, RunSpec, TaskSpec
from sharpbench.training import interrupt

EXECUTE = "bench_runs:execute"
SECONDS_AN_EPOCH = 0.01


def make_plan(labels: list[str], seeds: int = 1, epochs: int = 2, threads: int = 1) -> Plan:
    """A plan of one run for each label and seed."""
    runs = []
    for label in labels:
        for seed in range(seeds):
            task = TaskSpec(epochs=epochs, threads=threads)
            spec = RunSpec(seed=seed, task=task, optimizer=OptimizerSpec(name="sgd", label=label))
            condition = {"dataset": "digits", "model": "mlp"}
            runs.append(PlannedRun(run_id=spec.id, label=label, condition=condition, spec=spec))
    return Plan(
        suite="made",
        title="Made",
        reference="",
        text="",
        axes=("dataset", "model"),
        baseline=labels[0],
        runs=tuple(runs),
    )


def execute(
    spec: RunSpec, directory: Path, listener: Listener | None = None, device: str | None = None
) -> str:
    stopped = directory / "checkpoint.pt"
    begun = int(stopped.read_text()) if stopped.exists() else 0
    with open(calls_file(directory.parent.parent), "a") as calls:
        calls.write(f"{spec.id} {os.getpid()} {begun}\n")
    behaviour = spec.optimizer.label
    print(f"hello from {behaviour}", flush=True)
    write_text(directory / "half.txt", "half")
    for epoch in range(begun + 1, spec.task.epochs + 1):
        time.sleep(SECONDS_AN_EPOCH)
        if interrupt.requested() and behaviour != "deaf":
            write_text(stopped, str(epoch))
            raise Interrupted(f"stopped in epoch {epoch}")
        if listener is not None:
            listener(Progress(spec.id, "training", epoch, spec.task.epochs, 1.0 / epoch, 0.5))
    if behaviour == "raises":
        raise ValueError("no such luck")
    if behaviour == "fails":
        raise RunFailed("the data are gone")
    if behaviour == "exits":
        sys.exit(3)
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "killed once" and calls_of(directory.parent.parent).count(spec.id) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "segfaults":
        ctypes.string_at(0)
    if behaviour == "leaves":
        os._exit(7)
    if behaviour == "forgets":
        return "done"
    write_json(directory / "environment.json", {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")})
    write_text(directory / "numbers.txt", "".join(f"{spec.seed * epoch}\n" for epoch in range(100)))
    status = "diverged" if behaviour == "diverges" else "done"
    write_json(
        directory / "result.json",
        {
            "schema_version": 1,
            "run_id": spec.id,
            "status": status,
            "reason": "the loss is nan" if status == "diverged" else None,
            "metrics": None,
        },
    )
    stopped.unlink(missing_ok=True)
    return status


def calls_file(out: Path) -> Path:
    return out.parent / "calls.txt"


def calls_of(out: Path) -> list[str]:
    """Run ids in the order they were begun."""
    path = calls_file(out)
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def callers_of(out: Path) -> set[int]:
    """Process ids of those that began a run."""
    return {int(line.split()[1]) for line in calls_file(out).read_text().splitlines()}


def alive(pid: int) -> bool:
    """Whether a process still runs (one that waits to be collected does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def content(out: Path) -> dict[str, bytes]:
    """Every file below ``out`` but the locks, with its bytes."""
    files = (
        path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in (".lock", ".owner")
    )
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def read_json(path: Path) -> dict[str, object]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value
