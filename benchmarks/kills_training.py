"""Kill a training at 20 random moments, go on each time, and compare with the undisturbed one bit by bit.

    python benchmarks/kills_training.py [--kills N] [OPTIMIZER...]

Each attempt is a process of its own, ended by SIGKILL after a random time; checkpoints are written at every
step. Final weights, history and measures must be equal to the last bit (times aside). Prints a line for each
optimizer, writes benchmarks/results/kills_training.md, and exits with 1 if any differs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ["SHARPBENCH_CHECKPOINT_SECONDS"] = "0"  # read when a training begins

import pandas as pd
import torch
from safetensors.torch import load_file

from sharpbench.bench.ready import loaded
from sharpbench.bench.run import execute
from sharpbench.spec import RunSpec

RESULTS = Path(__file__).parent / "results"
NAMES = ["sgd", "sam", "infosam", "ssam_f", "lazy", "frob_sam"]


def spec(name: str) -> RunSpec:
    return RunSpec(
        task={"model": "small_cnn", "epochs": 6, "lr": 0.05, "label_noise": 0.5},
        optimizer={"name": name, "label": name},
        measure={"hvps": 10, "examples": 64, "measures": ("spectrum",)},
    )


def attempt(run: RunSpec, directory: Path, seconds: float | None) -> bool:
    """Run in a child; kill it after ``seconds``. Whether it came to its end."""
    child = os.fork()  # torch has started no threads yet, so a fork is safe, and quick
    if child == 0:
        code = 1
        try:
            execute(run, directory)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    if seconds is not None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def equal(one: Path, two: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    if not all(torch.equal(first[name], second[name]) for name in first):
        return False
    for name in ("history", "measures", "density"):
        a, b = (pd.read_parquet(place / f"{name}.parquet") for place in (one, two))
        times = [column for column in ("wall_seconds", "seconds") if column in a]
        if not a.drop(columns=times).equals(b.drop(columns=times)):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("names", nargs="*", default=NAMES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Once, for all attempts: what the first optimizer of a process imports takes longer than the training.
    importlib.import_module("torch._dynamo")
    loaded("digits")
    lines, wrong = [], False
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            chance, run, kills = random.Random(name), spec(name), 0
            began = time.monotonic()
            assert attempt(run, Path(folder) / "whole", None)
            whole = time.monotonic() - began
            same, ended = True, True
            while same and (kills < arguments.kills or not ended):
                if ended:  # as many trainings as it takes
                    killed = Path(folder) / f"killed-{kills}"
                # Once killed often enough, it may finish.
                ended = attempt(
                    run, killed, chance.uniform(0.1, 0.9) * whole if kills < arguments.kills else None
                )
                if not ended and kills == arguments.kills:
                    sys.exit(f"{name}: an undisturbed attempt did not finish")
                kills += not ended
                same = not ended or equal(Path(folder) / "whole", killed)
            wrong |= not same
            lines.append(f"| {name} | {kills} | {'equal to the last bit' if same else 'DIFFERENT'} |")
            print(f"{name}: {kills} kills, {'equal' if same else 'DIFFERENT'}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    head = "# Trainings killed and continued\n\n`python benchmarks/kills_training.py`, torch "
    (RESULTS / "kills_training.md").write_text(
        f"{head}{torch.__version__}\n\n| optimizer | kills | weights, history, measures |\n|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )
    sys.exit(int(wrong))


if __name__ == "__main__":
    main()
