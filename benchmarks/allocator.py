"""What tcmalloc or jemalloc saves a small network's gradient on a CPU, and MeanPool: one thread.

Run: ``python benchmarks/allocator.py``. Processes with and without the installed allocator in turn, medians.
Writes benchmarks/results/allocator.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from sharpbench.allocator import installed_allocator, keep_freed_memory
from sharpbench.models import build_model
from sharpbench.models.small import MeanPool

RESULTS = Path(__file__).parent / "results" / "allocator.md"
ROUNDS, REPEATS = 5, 300


def microseconds(action: Callable[[], object]) -> float:
    for _ in range(20):
        action()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1e6 * median(times)


def gradient(model: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> None:
    model.zero_grad()
    (model(x) * weights).sum().backward()


def alone() -> dict[str, float]:
    """In a process of its own: the gradients of a mini-batch of 64 digits."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    found = {}
    for name in ("mlp", "small_cnn"):
        model, x = build_model(name, (1, 8, 8), 10), torch.randn(64, 1, 8, 8)
        found[name] = microseconds(lambda model=model, x=x: gradient(model, x, torch.ones(64, 10)))
    maps = torch.randn(64, 32, 4, 4, requires_grad=True)
    for name, pool in (("MeanPool", MeanPool(4, 4)), ("AvgPool2d", nn.AvgPool2d(2))):
        found[name] = microseconds(lambda pool=pool: gradient(pool, maps, torch.ones(64, 32, 2, 2)))
    return found


def main() -> None:
    better = installed_allocator()
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for name in ("system", better):
            if name is None:
                continue
            environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
            environment |= {} if name == "system" else {"LD_PRELOAD": name}
            command = [sys.executable, __file__, "alone"]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            found.setdefault(name, []).append(json.loads(said))
    rows = [
        f"| {name} | " + " | ".join(f"{median(each[key] for each in values):.0f}" for key in values[0]) + " |"
        for name, values in found.items()
    ]
    head = "| allocator | " + " | ".join(found["system"][0]) + " |\n|---|---|---|---|---|\n"
    text = f"# Allocators, and mean-pooling\n\n`python benchmarks/allocator.py`, torch {torch.__version__}, "
    text += "one thread: microseconds of forward and backward on 64 digits (pools: 64 maps of 32x4x4).\n\n"
    RESULTS.write_text(text + head + "\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    print(json.dumps(alone())) if sys.argv[1:] else main()
