"""What a run says an optimizer cost is what was evaluated, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign_optimizers
import pandas as pd
import pytest
import torch
from torch import nn

from sharpbench.bench.run import execute
from sharpbench.bench.stepping import Stepper
from sharpbench.errors import Interrupted, RunFailed
from sharpbench.optim.counting import GradientCounter
from sharpbench.spec import RunSpec
from sharpbench.training import interrupt
from sharpbench.training.checkpoint import Checkpoints

# Gradients a step.
COSTS = {
    "TwoGradients": 2.0, "SaysOne": 2.0, "SaysTwo": 2.0, "EverySecond": 1.5, "OwnBackward": 1.0,
    "HessianTimesGradient": 2.0, "OutsideTheContract": 3.0, "Ours": 2.0,
}  # fmt: skip


def spec(name: str, **task: Any) -> RunSpec:
    method = f"foreign_optimizers:{name}" if hasattr(foreign_optimizers, name) else name
    return RunSpec(
        task={"epochs": 2, "lr": 0.05, "train_fraction": 0.2, **task},
        optimizer={"name": method, "label": name},
        measure={"measures": ("sam_sharpness",), "examples": 16, "hvps": 10, "epochs": (1,)},
    )


def outcome(run: RunSpec, place: Path) -> tuple[dict[str, Any], list[int]]:
    execute(run, place)
    counts = pd.read_parquet(place / "history.parquet")["gradient_evaluations"].tolist()
    return json.loads((place / "result.json").read_text()), counts


# Recorded gradients replay kernels without autograd; in parts, and of a CNN with augmentation, they don't.
@pytest.mark.parametrize(
    "task", [{}, {"augmentation": ("crop",), "model": "small_cnn", "epochs": 2}], ids=str
)
@pytest.mark.parametrize("name", COSTS)
def test_gradients_are_counted(tmp_path: Path, name: str, task: dict[str, Any]) -> None:
    result, history = outcome(spec(name, **task), tmp_path)
    assert result["gradient_evaluations"] == COSTS[name] * result["steps"] == history[-1]
    said = result.get("remarks", [])
    if name in ("SaysOne", "OutsideTheContract"):
        claim = {"SaysOne": "1.00", "OutsideTheContract": "2.00"}[name]
        (line,) = said
        assert f"foreign_optimizers:{name} says {claim} a step, but {COSTS[name]:.2f} were" in line
    else:
        assert said == []


def test_a_foreign_copy_costs_what_ours_does(tmp_path: Path) -> None:
    ours, foreign = outcome(spec("sam"), tmp_path / "a")[0], outcome(spec("TwoGradients"), tmp_path / "b")[0]
    assert ours["gradient_evaluations"] == foreign["gradient_evaluations"]
    assert Stepper(spec("TwoGradients")).gradients_per_step == 0.0
    stepper = Stepper(spec("TwoGradients"))
    stepper.timed(0.0, 3)
    assert stepper.gradients_per_step == 2.0


def test_a_part_of_a_mini_batch_is_a_part_of_a_gradient(tmp_path: Path) -> None:
    result, _ = outcome(spec("Ours", micro_batches=3, epochs=1), tmp_path)
    assert result["gradient_evaluations"] == 2 * result["steps"]


@pytest.mark.parametrize("name", ["TwoGradients", "SaysOne", "EverySecond"])
def test_a_stopped_run_has_the_same_count(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, counts = outcome(spec(name), tmp_path / "whole")
    tick, seen = Checkpoints.tick, 0

    def stop_now_and_then(self: Checkpoints, seconds_here: float) -> None:
        nonlocal seen
        seen += 1
        if seen in (1, 4, 6):
            interrupt.request_stop()
        tick(self, seconds_here)

    monkeypatch.setattr(Checkpoints, "tick", stop_now_and_then)
    stops = 0
    while True:
        try:
            stopped, counts_of_stopped = outcome(spec(name), tmp_path / "stopped")
            break
        except Interrupted:
            stops += 1
            interrupt.clear()
    assert stops == 3
    assert counts == counts_of_stopped
    for key in ("gradient_evaluations", "steps", "metrics", "remarks"):
        assert whole.get(key) == stopped.get(key)


def test_counting_changes_no_bit(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    execute(spec("sam"), tmp_path / "a")
    execute(spec("Ours"), tmp_path / "b")
    one, two = (load_file(tmp_path / place / "model.safetensors") for place in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_step_without_a_loss_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"NoLoss: step\(closure\) must return the loss"):
        execute(spec("NoLoss"), tmp_path)


def test_a_compiled_network_is_counted_by_its_closures() -> None:
    """Without the compiler: what a closure tells the counter when no hook sits on the network."""
    from sharpbench.spec import OptimizerSpec, TaskSpec
    from sharpbench.training.batch import batch_losses
    from sharpbench.training.counting import Count

    model = nn.Linear(4, 3)
    task = TaskSpec(compile="default")
    count = Count(model, task, OptimizerSpec(name="foreign_optimizers:TwoGradients", label="two"))
    assert not model._forward_hooks
    optimizer = foreign_optimizers.TwoGradients(torch.optim.SGD(model.parameters(), lr=0.1))
    count.begin(optimizer)
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    count.step(batch_losses(model, optimizer, x, y, task, count=count), len(y))
    assert count.total == 2.0


def test_functional_transforms_count() -> None:
    model, counter = nn.Linear(2, 1), GradientCounter()
    handle = counter.follow(model)
    values = dict(model.named_parameters())

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (torch.ones(4, 2),)).sum()

    with counter.step(examples=4):
        torch.func.grad(loss)(values)
    assert counter.total == 1.0
    model(torch.ones(4, 2)).sum().backward()  # outside of a step
    assert counter.total == 1.0
    handle.remove()
    assert not model._forward_hooks
