"""What recording a small network's gradient saves: one thread.

Run: ``python benchmarks/recorded.py``. Both ways in turn in one process, medians. Writes
benchmarks/results/recorded.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from sharpbench.allocator import keep_freed_memory
from sharpbench.models import build_model
from sharpbench.training.batch import cross_entropy
from sharpbench.training.recorded import RecordedGradient

RESULTS = Path(__file__).parent / "results" / "recorded.md"
ROUNDS = 1000
NETWORKS = ("mlp", "small_cnn", "tiny_vit")


def microseconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return 1e6 * (time.perf_counter() - began)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
    # Imports that the first gradient of a process pays for are not a recording's.
    RecordedGradient(build_model("mlp", (1, 8, 8), 10), cross_entropy)(x, y)
    for name in NETWORKS:
        model = build_model(name, (1, 8, 8), 10)
        recorded = RecordedGradient(model, cross_entropy)
        once = [microseconds(lambda recorded=recorded: recorded(x, y)) for _ in range(2)]

        def autograd(model: torch.nn.Module = model) -> None:
            model.zero_grad()
            cross_entropy(model(x), y).backward()

        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS if name != "tiny_vit" else ROUNDS // 10):
            times[0].append(microseconds(autograd))
            times[1].append(microseconds(lambda recorded=recorded: recorded(x, y)))
        eager, replayed = map(median, times)
        assert recorded.replays >= len(times[1])
        rows.append(f"| {name} | {eager:.0f} | {replayed:.0f} | {replayed / eager:.2f} | {sum(once):.0f} |")
    head = "| network | autograd | replayed | ratio | first two together |\n|---|---|---|---|---|\n"
    text = (
        f"# Recorded gradients\n\n`python benchmarks/recorded.py`, torch {torch.__version__}, one thread: "
        "microseconds of loss and gradient on 64 digits; the first evaluation is written down, the second "
        "compared.\n\n"
    )
    RESULTS.write_text(text + head + "\n".join(rows) + "\n", encoding="utf-8")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
