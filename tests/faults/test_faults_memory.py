"""Memory that runs out: the mini-batch in two parts if that is the same training, else advice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faults_suite import PLAN, ROOT

from sharpbench.bench.memory import advice, in_smaller_parts, out_of_memory
from sharpbench.bench.run import execute
from sharpbench.errors import RunFailed
from sharpbench.spec import OptimizerSpec, RunSpec, TaskSpec

LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from sharpbench.bench.run import execute
from sharpbench.bench.ready import loaded
from sharpbench.errors import RunFailed
from sharpbench.spec import RunSpec
spec = RunSpec.model_validate_json(sys.argv[1])
loaded(spec.task.dataset)
torch.set_num_threads(1)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = size + int(sys.argv[3]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(execute(spec, Path(sys.argv[2])))
except RunFailed as error:
    print("failed:", error)
"""


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    wrapped = RunFailed("it failed")
    wrapped.__cause__ = caught.value
    assert out_of_memory(wrapped)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("method", "parameters", "task", "parts"),
    [
        ("sam", {}, {}, 2),
        ("sgd", {}, {"micro_batches": 4}, 8),
        ("sam", {}, {"batch_size": 1}, None),
        ("sam", {"m_sharpness": True}, {}, None),
        ("esam", {}, {}, None),
        ("torch.optim:SGD", {}, {}, None),
        ("sam", {}, {"model": "small_cnn"}, None),
    ],
)
def test_when_smaller_parts_are_the_same_training(
    method: str, parameters: dict[str, object], task: dict[str, object], parts: int | None
) -> None:
    spec = RunSpec(
        task=TaskSpec(**task), optimizer=OptimizerSpec(name=method, label="x", parameters=parameters)
    )
    smaller = in_smaller_parts(spec)
    assert (smaller.micro_batches if smaller else None) == parts
    assert advice(spec).startswith("out of memory; try ")


def test_the_run_goes_on_in_two_parts_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sharpbench.bench.run as running

    train = running.train

    def a_small_machine(model, task, *arguments, **named):  # type: ignore[no-untyped-def]
        if task.micro_batches == 1:
            torch.empty(2**60, dtype=torch.uint8)
        return train(model, task, *arguments, **named)

    monkeypatch.setattr(running, "train", a_small_machine)
    assert execute(PLAN.runs[1].spec, tmp_path / "run") == "done"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["remarks"] == ["memory ran out: mini-batches were evaluated in 2 parts"]
    halves = PLAN.runs[1].spec.task.model_copy(update={"micro_batches": 2})
    monkeypatch.setattr(running, "train", train)
    execute(PLAN.runs[1].spec.model_copy(update={"task": halves}), tmp_path / "halves")
    expected = json.loads((tmp_path / "halves" / "result.json").read_text())
    assert result["metrics"] == expected["metrics"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_under_a_real_limit_it_fails_with_advice(tmp_path: Path) -> None:
    task = TaskSpec(model="small_cnn", epochs=1, batch_size=1400)
    spec = RunSpec(task=task, optimizer=OptimizerSpec(name="sam", label="sam"), measure={"hvps": 10})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, spec.canonical(), str(tmp_path / "run"), "24"],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("failed:")
    assert "out of memory; try micro_batches = 2 in [task], a batch_size below 1400" in done.stdout
    assert not (tmp_path / "run" / "result.json").exists()
