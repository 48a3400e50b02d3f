"""Killed at any moment and started again, a training ends in the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sharpbench.bench.run import execute
from sharpbench.errors import Interrupted
from sharpbench.spec import RunSpec
from sharpbench.training import interrupt
from sharpbench.training.checkpoint import Checkpoints

SCRIPT = Path(__file__).with_name("killed_training.py")
METHODS: dict[str, dict[str, Any]] = {
    "sgd": {}, "sam": {"rho": 0.1}, "infosam": {"rho": 0.1}, "ssam_f": {}, "lazy": {}, "frob_sam": {},
}  # fmt: skip


def spec(name: str, **task: Any) -> RunSpec:
    chosen = {"model": "small_cnn", "epochs": 3, "lr": 0.05, "train_fraction": 0.3, "label_noise": 0.5} | task
    return RunSpec(
        task=chosen,
        optimizer={"name": name, "label": name, "parameters": METHODS.get(name, {})},
        measure={
            "hvps": 10,
            "examples": 32,
            "epochs": (0, 1),
            "measures": ("sam_sharpness",),
            "diagnostics": True,
        },
    )


def same(one: Path, two: Path) -> None:
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("history", "measures", "trajectory", "diagnostics"):
        a, b = (pd.read_parquet(place / f"{name}.parquet") for place in (one, two))
        times = [column for column in ("wall_seconds", "seconds") if column in a]
        pd.testing.assert_frame_equal(a.drop(columns=times), b.drop(columns=times), check_exact=True)


@pytest.mark.parametrize("name", METHODS)
def test_stopped_at_any_step_it_goes_on_to_the_bit(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(spec(name), tmp_path / "whole")
    tick, seen = Checkpoints.tick, 0

    def stop_now_and_then(self: Checkpoints, seconds_here: float) -> None:
        nonlocal seen
        seen += 1
        if seen in (2, 4, 7, 12):  # of 12 steps: within epochs, at the end of one, and of the last
            interrupt.request_stop()
        tick(self, seconds_here)

    monkeypatch.setattr(Checkpoints, "tick", stop_now_and_then)
    stops = 0
    while True:
        try:
            execute(spec(name), tmp_path / "stopped")
            break
        except Interrupted:
            stops += 1
            interrupt.clear()
            torch.randn(3)  # another process would be in another random state
    assert stops == 4
    same(tmp_path / "whole", tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", ["infosam", "ssam_f"])
def test_sigkill_at_random_moments(tmp_path: Path, name: str) -> None:
    run = spec(name, epochs=12)
    execute(run, tmp_path / "whole")
    (tmp_path / "spec.json").write_text(run.canonical())
    chance = random.Random(name)
    environment = os.environ | {"SHARPBENCH_CHECKPOINT_SECONDS": "0"}
    kills = 0
    while True:
        command = [sys.executable, str(SCRIPT), str(tmp_path / "spec.json"), str(tmp_path / "killed")]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        if kills < 3:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.05, 0.4))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.stdout.close()
        if process.wait() == 0:
            break
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("damage", ["truncated", "emptied", "garbled", "of another run"])
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, damage: str) -> None:
    execute(spec("sam"), tmp_path / "whole")
    interrupt.request_stop()
    with pytest.raises(Interrupted, match=r"checkpoint\.pt is kept"):
        execute(spec("sam"), tmp_path / "other")
    interrupt.clear()
    path = tmp_path / "other" / "checkpoint.pt"
    content = path.read_bytes()
    if damage == "of another run":
        interrupt.request_stop()
        with pytest.raises(Interrupted):
            execute(spec("sam", label_noise=0.1), tmp_path / "third")
        interrupt.clear()
        content = (tmp_path / "third" / "checkpoint.pt").read_bytes()
    else:
        content = {"truncated": content[: len(content) // 2], "emptied": b"", "garbled": content[::-1]}[
            damage
        ]
    path.write_bytes(content)
    execute(spec("sam"), tmp_path / "other")
    same(tmp_path / "whole", tmp_path / "other")


def test_signals_ask_for_a_stop() -> None:
    with interrupt.stop_on_signals(signal.SIGUSR2):
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0.01)
        assert interrupt.requested()
    interrupt.clear()
