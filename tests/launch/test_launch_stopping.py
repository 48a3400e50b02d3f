"""Told to stop, a run writes its checkpoint; started again, it goes on from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import bench_runs
import pytest

from sharpbench.bench.compare import difference
from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Outcome, Settings
from sharpbench.bench.plan import Plan
from sharpbench.bench.progress import Progress
from sharpbench.bench.store import Store
from sharpbench.bench.suite import read_suite
from sharpbench.training import interrupt

SUITE = """
[task]
epochs = 40
[matrix]
seed = [0]
[[optimizer]]
name = "sam"
rho = 0.05
[measure]
measures = ["sam_sharpness"]
examples = 64
"""


class Stopper:
    """A watch that sends this process a signal when a run has got to its second epoch."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.outcomes: list[Outcome] = []

    def begin(self, todo, finished):
        pass

    def progress(self, message: Progress) -> None:
        if message.epoch == 2:
            signal.raise_signal(self.number)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("suite") / "stopped.toml"
    path.write_text(SUITE)
    return read_suite(path).plan


@pytest.fixture(scope="module")
def undisturbed(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    (outcome,) = run_plan(plan, out, "inline", Settings(device="cpu"))
    assert outcome.status == "done"
    return Store(out).directory(outcome.run_id)


@pytest.mark.parametrize(
    ("launcher", "number", "raised"),
    [
        ("inline", signal.SIGINT, KeyboardInterrupt),
        ("inline", signal.SIGTERM, SystemExit),
        ("local", signal.SIGINT, KeyboardInterrupt),
        ("local", signal.SIGTERM, SystemExit),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_bytes(
    tmp_path: Path,
    plan: Plan,
    undisturbed: Path,
    launcher: str,
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    out = tmp_path / "out"
    watch = Stopper(number)
    settings = Settings(device="cpu", workers=1, grace_seconds=60)
    with pytest.raises(raised) as caught:
        run_plan(plan, out, launcher, settings, watch)
    if raised is SystemExit:
        assert caught.value.code == 128 + number
    assert not interrupt.requested()
    (run,) = plan.runs
    directory = Store(out).directory(run.run_id)
    assert (directory / "checkpoint.pt").exists()
    assert not (directory / "error.log").exists()
    assert Store(out).state(run.run_id) == ("missing", "")
    # The inline launcher still hands the outcome over; the local one is closed by then.
    assert [outcome.status for outcome in watch.outcomes] == ["interrupted"] * (launcher == "inline")
    (outcome,) = run_plan(plan, out, launcher, settings)
    assert outcome.status == "done"
    assert not (directory / "checkpoint.pt").exists()
    assert difference(undisturbed, directory) is None


def test_a_second_signal_does_not_wait_for_the_checkpoint(tmp_path: Path) -> None:
    plan = bench_runs.make_plan(["a"], epochs=10**6)

    class Twice(Stopper):
        def progress(self, message: Progress) -> None:
            if message.epoch == 2:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_plan(
            plan,
            tmp_path / "out",
            "inline",
            Settings(execute=bench_runs.EXECUTE, grace_seconds=600),
            Twice(signal.SIGINT),
        )
    assert not interrupt.requested()
    directory = Store(tmp_path / "out").directory(plan.runs[0].run_id)
    assert not (directory / "checkpoint.pt").exists()


def test_the_end_of_the_grace_stops_a_run_that_does_not_listen(tmp_path: Path) -> None:
    plan = bench_runs.make_plan(["deaf"], epochs=10**6)
    settings = Settings(execute=bench_runs.EXECUTE, grace_seconds=0.05)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, tmp_path / "out", "inline", settings, Stopper(signal.SIGINT))
    directory = Store(tmp_path / "out").directory(plan.runs[0].run_id)
    assert not (directory / "checkpoint.pt").exists()


def test_a_request_without_a_signal_ends_the_inline_launch(tmp_path: Path) -> None:
    plan = bench_runs.make_plan(["a"], seeds=2)
    interrupt.request_stop()
    try:
        outcomes = run_plan(plan, tmp_path / "out", "inline", Settings(execute=bench_runs.EXECUTE))
    finally:
        interrupt.clear()
    assert [outcome.status for outcome in outcomes] == ["interrupted"]
    assert outcomes[0].reason == "stopped in epoch 1"


def test_a_worker_told_to_stop_by_somebody_else_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a"], epochs=20)
    said: list[str] = []

    class Killer(Stopper):
        def progress(self, message: Progress) -> None:
            if message.epoch == 2:
                (worker,) = bench_runs.callers_of(out)
                os.kill(worker, signal.SIGTERM)

    settings = Settings(execute=bench_runs.EXECUTE, workers=1, notice=said.append)
    (outcome,) = run_plan(plan, out, "local", settings, Killer(signal.SIGTERM))
    assert (outcome.status, outcome.attempts) == ("done", 2)
    begun = [int(line.split()[2]) for line in bench_runs.calls_file(out).read_text().splitlines()]
    assert len(begun) == 2
    assert begun[1] >= 2, "the second worker goes on from the checkpoint of the first"
    assert said == [f"a worker ended with exit code 0; run {outcome.run_id} is tried again (attempt 2 of 3)"]
