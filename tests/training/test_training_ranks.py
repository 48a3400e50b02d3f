"""Two processes that share every mini-batch end with one process's weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sharpbench.optim import OPTIMIZERS

SCRIPT = Path(__file__).with_name("rank_training.py")
# Each rank chooses among its own examples (ESAM's selection, the Fisher samples of sparse SAM).
CHOOSES_PER_RANK = {"esam", "ssam_f"}
NAMES = [name for name, entry in OPTIMIZERS.items() if not entry.needs_object]


def run(directory: Path, processes: int) -> None:
    directory.mkdir()
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*launch, str(SCRIPT), str(directory), *NAMES],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    places = {count: tmp_path_factory.mktemp("ranks") / str(count) for count in (1, 2)}
    for count, place in places.items():
        run(place, count)
    return places


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_train_as_one(trained: dict[int, Path], name: str) -> None:
    one, two = (load_file(trained[count] / f"{name}.safetensors") for count in (1, 2))
    loose = name in CHOOSES_PER_RANK
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-7, atol=2e-2 if loose else 1e-9)
