"""A run computes with the threads of its spec, and the process goes on with those it had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bench_runs
import pytest
import torch

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.price import price
from sharpbench.bench.run import execute
from sharpbench.bench.suite import parse_suite
from sharpbench.bench.threads import threads
from sharpbench.bench.timing import time_plan
from sharpbench.errors import RunFailed

SUITE = """
[task]
epochs = 1
train_fraction = 0.2
[matrix]
seed = [0]
[[optimizer]]
name = "sgd"
[measure]
measures = ["sam_sharpness"]
examples = 16
"""


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("what", ["execute", "fail", "run_plan", "price", "time_plan"])
def test_the_number_of_threads_is_put_back(tmp_path: Path, what: str) -> None:
    plan = parse_suite(SUITE, "short", "short.toml")
    spec, during = plan.runs[0].spec, []
    if what == "execute":
        execute(spec, tmp_path / "run", lambda progress: during.append(torch.get_num_threads()))
        assert set(during) == {spec.task.threads} == {1}
    elif what == "fail":
        broken = spec.model_copy(update={"optimizer": spec.optimizer.model_copy(update={"name": "none"})})
        with pytest.raises(RunFailed):
            execute(broken, tmp_path / "run")
    elif what == "run_plan":
        settings = Settings(execute=bench_runs.EXECUTE, device="cpu")
        (outcome,) = run_plan(bench_runs.make_plan(["a"]), tmp_path / "out", "inline", settings)
        assert outcome.status == "done"
    elif what == "price":
        price(plan, seconds=0.0, told=lambda kind: None)
    else:
        time_plan(plan, rounds=1)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_the_block_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), threads(2):
        torch.get_num_threads() // 0
    assert torch.get_num_threads() == 3
