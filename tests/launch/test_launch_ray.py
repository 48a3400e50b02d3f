"""Real Ray on two CPUs."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import bench_runs
import pytest
import required_tools

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Outcome, Settings
from sharpbench.bench.progress import Progress
from sharpbench.bench.store import Store
from sharpbench.errors import InvalidInput

ray = required_tools.imported("ray", "pip install 'sharpbench[ray]'")
pytestmark = [
    # Ray leaves pipes and files of its own processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Recorder:
    def __init__(self) -> None:
        self.messages: list[Progress] = []
        self.outcomes: list[Outcome] = []

    def begin(self, todo, finished):
        pass

    def progress(self, message):
        self.messages.append(message)

    def ended(self, outcome):
        self.outcomes.append(outcome)


def test_ray_carries_out_everything_and_names_what_died(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a", "diverges", "raises", "killed once", "killed"], epochs=3)
    said: list[str] = []
    watch = Recorder()
    settings = Settings(execute=bench_runs.EXECUTE, workers=2, device="cpu", notice=said.append)
    outcomes = {o.run_id: o for o in run_plan(plan, out, "ray", settings, watch)}
    by_label = {run.label: outcomes[run.run_id] for run in plan.runs}
    assert (by_label["a"].status, by_label["a"].attempts) == ("done", 1)
    assert (by_label["diverges"].status, by_label["diverges"].reason) == ("diverged", "the loss is nan")
    assert by_label["raises"].reason == "ValueError: no such luck"
    assert (by_label["killed once"].status, by_label["killed once"].attempts) == ("done", 2)
    assert (by_label["killed"].status, by_label["killed"].attempts) == ("failed", 3)
    assert "died" in by_label["killed"].reason
    assert "in 3 attempts" in by_label["killed"].reason
    (run,) = (run for run in plan.runs if run.label == "a")
    assert [m.epoch for m in watch.messages if m.run_id == run.run_id] == [0, 1, 2, 3]
    assert len(outcomes) == len(watch.outcomes) == len(plan.runs)
    assert Store(out).state(run.run_id) == ("done", "")
    assert sum("is tried again" in line for line in said) == 3
    assert not ray.is_initialized(), "the cluster must end with the launch"


def test_ctrl_c_asks_ray_tasks_for_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a"], seeds=3, epochs=3000)

    class Impatient(Recorder):
        def progress(self, message):
            super().progress(message)
            if len({m.run_id for m in self.messages if m.epoch > 1}) == 2:
                signal.raise_signal(signal.SIGINT)

    settings = Settings(execute=bench_runs.EXECUTE, workers=2, device="cpu", grace_seconds=20)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, out, "ray", settings, Impatient())
    finally:
        signal.signal(signal.SIGINT, before)
    begun = set(bench_runs.calls_of(out))
    assert len(begun) == 2
    for run_id in begun:
        assert (Store(out).directory(run_id) / "checkpoint.pt").exists()
        assert Store(out).state(run_id) == ("missing", "")
    assert not any(bench_runs.alive(pid) for pid in bench_runs.callers_of(out))


def test_a_running_cluster_that_loses_a_node(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a"], seeds=2, epochs=400)
    memory = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
    )
    said: list[str] = []
    try:
        doomed = cluster.add_node(num_cpus=1, **memory)

        class Saboteur(Recorder):
            """Takes the only node with CPUs away from the first run, and brings another."""

            def progress(self, message):
                super().progress(message)
                if message.epoch == 2 and doomed in cluster.list_all_nodes():
                    cluster.remove_node(doomed, allow_graceful=False)
                    cluster.add_node(num_cpus=1, **memory)

        watch = Saboteur()
        settings = Settings(
            execute=bench_runs.EXECUTE, device="cpu", address=cluster.address, notice=said.append
        )
        outcomes = run_plan(plan, out, "ray", settings, watch)
        assert doomed not in cluster.list_all_nodes()
        assert sorted((o.status, o.attempts) for o in outcomes) == [("done", 1), ("done", 2)]
        assert any("is tried again (attempt 2 of 3)" in line for line in said)
        assert said[0].endswith("2 node(s)")
    finally:
        cluster.shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379", "auto"])
def test_no_cluster_at_the_address_is_said_at_once(address: str, tmp_path: Path) -> None:
    settings = Settings(execute=bench_runs.EXECUTE, device="cpu", address=address)
    began = time.monotonic()
    with pytest.raises(InvalidInput, match="no Ray cluster at"):
        run_plan(bench_runs.make_plan(["a"]), tmp_path / "out", "ray", settings)
    assert time.monotonic() - began < 20
