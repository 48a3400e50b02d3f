"""A run leaves nothing behind: workers make thousands of them."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from sharpbench.bench.run import execute
from sharpbench.optim import OPTIMIZERS
from sharpbench.spec import RunSpec


def tensors() -> int:
    gc.collect()
    return sum(type(thing) in (torch.Tensor, torch.nn.Parameter) for thing in gc.get_objects())


# "universal" asks for a measure; trace_sam and its relatives are it.
@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"universal"}))
def test_a_run_leaves_no_tensor_behind(name: str, tmp_path: Path) -> None:
    model = "small_cnn" if name == "sam" else "mlp"
    spec = RunSpec(
        task={"model": model, "epochs": 2, "train_fraction": 0.1},
        optimizer={"name": name, "label": name},
        measure={"examples": 32, "hvps": 10},
    )
    execute(spec, tmp_path / "first")  # whatever is made once in a process
    before = tensors()
    execute(spec, tmp_path / "second")
    assert tensors() == before
