"""Launchers: whatever a run does, the others go on and the outcome is named."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_runs
import pytest

from sharpbench.bench.drive import estimated_cost, run_plan
from sharpbench.bench.launch import Outcome, Settings, find_launcher
from sharpbench.bench.launch.slots import worker_count
from sharpbench.bench.progress import Progress
from sharpbench.bench.store import Store, claimed
from sharpbench.errors import InvalidInput
from sharpbench.spec import OptimizerSpec, RunSpec, TaskSpec

LAUNCHERS = ["inline", "local"]
# What a run does -> what its outcome must say.
FAILURES = {
    "raises": "ValueError: no such luck",
    "fails": "the data are gone",
    "exits": "SystemExit: 3",
    "forgets": "no valid result.json",
}
DEATHS = {
    "killed": "killed by SIGKILL",
    "segfaults": "killed by SIGSEGV",
    "leaves": "exit code 7",
}


class Recorder:
    """A watch that keeps everything."""

    def __init__(self) -> None:
        self.todo: list[str] = []
        self.finished = -1
        self.messages: list[Progress] = []
        self.outcomes: list[Outcome] = []

    def begin(self, todo, finished):
        self.todo = [run.run_id for run in todo]
        self.finished = finished

    def progress(self, message):
        self.messages.append(message)

    def ended(self, outcome):
        self.outcomes.append(outcome)


def settings(workers: int = 1) -> Settings:
    return Settings(execute=bench_runs.EXECUTE, workers=workers)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_run_ends_and_a_second_launch_repeats_none(tmp_path: Path, launcher: str) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a", "diverges"], seeds=2)
    watch = Recorder()
    outcomes = run_plan(plan, out, launcher, settings(2), watch)
    assert sorted((o.run_id, o.status) for o in outcomes) == sorted(
        (run.run_id, "diverged" if run.label == "diverges" else "done") for run in plan.runs
    )
    assert all(o.reason == "the loss is nan" for o in outcomes if o.status == "diverged")
    assert watch.outcomes == outcomes
    assert watch.finished == 0
    for run in plan.runs:
        epochs = [m.epoch for m in watch.messages if m.run_id == run.run_id]
        assert epochs == [0, 1, 2]
        directory = Store(out).directory(run.run_id)
        assert sorted(p.name for p in directory.iterdir()) == [
            ".lock", "environment.json", "half.txt", "numbers.txt", "result.json"
        ]  # fmt: skip
    before = bench_runs.content(out)
    again = Recorder()
    assert run_plan(plan, out, launcher, settings(2), again) == []
    assert (again.todo, again.finished) == ([], 4)
    assert len(bench_runs.calls_of(out)) == 4
    assert bench_runs.content(out) == before


def test_both_launchers_write_the_same_bytes(tmp_path: Path) -> None:
    plan = bench_runs.make_plan(["a", "raises"], seeds=1)
    for launcher in LAUNCHERS:
        run_plan(plan, tmp_path / launcher / "out", launcher, settings())
    inline, local = (bench_runs.content(tmp_path / launcher / "out") for launcher in LAUNCHERS)
    assert inline.keys() == local.keys()
    differing = {name for name in inline if inline[name] != local[name]}
    # The worker keeps what the run printed, and has its thread count in the environment.
    assert {Path(name).name for name in differing} <= {"error.log", "environment.json"}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failure_is_kept_with_its_traceback_and_the_rest_goes_on(tmp_path: Path, launcher: str) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan([*FAILURES, "a"])
    outcomes = {o.run_id: o for o in run_plan(plan, out, launcher, settings())}
    store = Store(out)
    for run in plan.runs:
        outcome = outcomes[run.run_id]
        log = store.directory(run.run_id) / "error.log"
        if run.label == "a":
            assert outcome.status == "done"
            assert not log.exists()
            continue
        assert outcome.status == "failed"
        assert FAILURES[run.label] in outcome.reason
        assert store.state(run.run_id) == ("failed", outcome.reason)
        assert not (store.directory(run.run_id) / "result.json").exists()
        assert ("Traceback" in log.read_text()) == (run.label != "forgets")
    printed = (store.directory(plan.runs[0].run_id) / "error.log").read_text()
    assert ("hello from raises" in printed) == (launcher == "local")


def test_a_failed_run_is_tried_again_and_its_log_goes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["fails"])
    directory = Store(out).directory(plan.runs[0].run_id)
    for retry in (False, True):
        (outcome,) = run_plan(plan, out, "inline", settings(), retry_failed=retry)
        assert outcome.status == "failed"
    assert len(bench_runs.calls_of(out)) == 2
    (kept,) = run_plan(plan, out, "inline", settings())
    assert kept == replace(outcome, attempts=0, here=False)
    assert len(bench_runs.calls_of(out)) == 2, "a failed run is repeated only when asked for"
    bench_runs.calls_file(out).unlink()
    good = Settings(execute="bench_runs_good:execute")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        (tmp_path / "bench_runs_good.py").write_text(
            "import bench_runs\n"
            "def execute(spec, directory, listener=None, device=None):\n"
            "    assert sorted(p.name for p in directory.iterdir()) == ['.lock', '.owner']\n"
            "    bench_runs.write_json(directory / 'result.json',\n"
            "        {'run_id': spec.id, 'schema_version': 1, 'status': 'done'})\n"
            "    return 'done'\n"
        )
        (outcome,) = run_plan(plan, out, "inline", good, retry_failed=True)
    assert outcome == Outcome(plan.runs[0].run_id, "done")
    assert sorted(p.name for p in directory.iterdir()) == [".lock", "result.json"]


def test_a_dead_worker_is_replaced_and_its_run_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["killed once", "a"])
    outcomes = {o.run_id: o for o in run_plan(plan, out, "local", settings())}
    once, other = plan.runs
    assert outcomes[once.run_id] == Outcome(once.run_id, "done", attempts=2)
    assert outcomes[other.run_id] == Outcome(other.run_id, "done", attempts=1)
    assert bench_runs.calls_of(out).count(once.run_id) == 2


@pytest.mark.parametrize("label", DEATHS)
def test_a_run_that_kills_three_workers_has_failed(tmp_path: Path, label: str) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan([label, "a"])
    outcomes = {o.run_id: o for o in run_plan(plan, out, "local", settings())}
    deadly, other = plan.runs
    assert outcomes[other.run_id].status == "done"
    assert outcomes[deadly.run_id].status == "failed"
    assert outcomes[deadly.run_id].attempts == 3
    assert DEATHS[label] in outcomes[deadly.run_id].reason
    assert bench_runs.calls_of(out).count(deadly.run_id) == 3
    log = (Store(out).directory(deadly.run_id) / "error.log").read_text()
    assert f"hello from {label}" in log
    # The Python stack of a crash in native code.
    assert ("bench_runs.py" in log) == (label == "segfaults")


def test_workers_get_the_thread_count_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    plan = bench_runs.make_plan(["a"], threads=2)
    run_plan(plan, tmp_path / "out", "local", settings())
    directory = Store(tmp_path / "out").directory(plan.runs[0].run_id)
    assert bench_runs.read_json(directory / "environment.json") == {"OMP_NUM_THREADS": "2"}


def test_stopping_early_stops_the_workers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a"], seeds=2, epochs=500)

    class Impatient(Recorder):
        def progress(self, message):
            if message.epoch:
                raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, out, "local", settings(2), Impatient())
    assert time.monotonic() - began < 4
    assert multiprocessing.active_children() == []
    assert not any(bench_runs.alive(pid) for pid in bench_runs.callers_of(out))
    assert [Store(out).state(run.run_id)[0] for run in plan.runs] == ["missing", "missing"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_held_by_another_process_is_left_to_it(tmp_path: Path, launcher: str) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a", "b"])
    held = plan.runs[0]
    directory = Store(out).directory(held.run_id)

    class Other(Recorder):
        """Finishes the held run, as another launcher would, once ours has done the rest."""

        def ended(self, outcome):
            super().ended(outcome)
            if outcome.run_id != held.run_id:
                bench_runs.execute(held.spec, directory)
                claim.__exit__(None, None, None)

    claim = claimed(directory)
    assert claim.__enter__()
    watch = Other()
    run_plan(plan, out, launcher, settings(), watch)
    assert [(o.run_id, o.status, o.here) for o in watch.outcomes] == [
        (plan.runs[1].run_id, "done", True),
        (held.run_id, "done", False),
    ]
    assert bench_runs.calls_of(out).count(held.run_id) == 1


def test_no_more_workers_than_jobs_and_none_for_nothing(tmp_path: Path) -> None:
    plan = bench_runs.make_plan(["a"])
    run_plan(plan, tmp_path / "out", "local", settings(8))
    assert len(bench_runs.callers_of(tmp_path / "out")) == 1
    assert list(find_launcher("local")([], settings())) == []


def test_worker_count() -> None:
    assert worker_count(None, threads=10**6) == 1
    assert worker_count(None, threads=1) >= 1
    with pytest.raises(InvalidInput, match="workers must be >= 1, but got 0"):
        worker_count(0, threads=1)


def test_an_unknown_launcher_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unknown launcher 'lokal'; did you mean 'local'"):
        run_plan(bench_runs.make_plan(["a"]), tmp_path / "out", "lokal")
    assert not (tmp_path / "out").exists()


def test_the_longest_runs_come_first(tmp_path: Path) -> None:
    short, long = bench_runs.make_plan(["a"], epochs=1), bench_runs.make_plan(["a"], epochs=3)
    plan = short.model_copy(update={"runs": short.runs + long.runs})
    run_plan(plan, tmp_path / "out", "inline", settings())
    assert bench_runs.calls_of(tmp_path / "out") == [long.runs[0].run_id, short.runs[0].run_id]


@pytest.mark.parametrize(
    ("name", "parameters", "gradients"),
    [
        ("sgd", {}, 1),
        ("sam", {}, 2),
        ("crsam", {}, 3),
        ("lazy", {}, 1.5),
        ("frob_sam", {"n_samples": 4}, 5),
        ("frob_sam", {"n_samples": 4, "sampling": "antithetic"}, 9),
        ("my_module:Mine", {}, 2),
    ],
)
def test_the_estimated_cost_counts_gradients(name: str, parameters: dict[str, Any], gradients: float) -> None:
    optimizer = OptimizerSpec(name=name, label=name, parameters=parameters)
    spec = RunSpec(task=TaskSpec(epochs=10, train_fraction=0.5), optimizer=optimizer)
    assert estimated_cost(spec) == 5 * gradients
