"""Two gloo processes with half of each mini-batch end where one process with all of it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ddp_halves
import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """The weights by optimizer of each rank: one pair of processes for all of them."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    command = [sys.executable, ddp_halves.__file__]
    children = [
        subprocess.Popen(
            [*command, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [child.communicate(timeout=300)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0, 0], said
    return [torch.load(folder / f"weights-{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ddp_halves.CASES)
def test_two_ranks_equal_one_process(name: str, of_ranks: list[dict[str, Tensor]]) -> None:
    first, second = (found[name] for found in of_ranks)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, ddp_halves.weights_after(name, None), rtol=0, atol=1e-10)
