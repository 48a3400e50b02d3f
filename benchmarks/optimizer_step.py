"""What a step costs beyond its gradients: wall time of a step / (its gradient evaluations x one gradient).

    python benchmarks/optimizer_step.py [--davda54 DIR] [--rounds N] [--device cuda]

One process, every optimizer and peer in turn within each round (interleaved, in an order drawn anew for
each round), medians over the rounds of the ratio of a step to the gradient timed right after it. A gradient
is one forward and backward pass on the same mini-batch.
As in every run of the harness, the C library keeps freed memory (sharpbench.allocator);
`--return-memory` leaves glibc's default, for comparison. Peers: pytorch_optimizer's SAM where installed,
and davda54/sam when the folder that holds its sam.py is given. The three SAMs are also timed by themselves,
in many more rounds. Writes benchmarks/results/optimizer_step.md and .csv.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sharpbench.allocator import keep_freed_memory
from sharpbench.models import build_model
from sharpbench.optim import OPTIMIZERS, BatchLoss, build, complete_parameters

RESULTS = Path(__file__).parent / "results"
# A tiny learning rate: the timing must not depend on where the weights have gone. Fused, as the harness has
# it; for every contestant.
BASE = {"lr": 1e-6, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}


def timed(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Case:
    """A network with its mini-batch, and a step of each optimizer on it."""

    def __init__(self, model: str, shape: tuple[int, int, int], batch: int, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = build_model(model, shape, 10).to(device)
        self.x = torch.randn(batch, *shape, device=device)
        if device == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
            self.x = self.x.to(memory_format=torch.channels_last)
        self.y = torch.randint(0, 10, (batch,), device=device)

    def losses(self) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return nn.functional.cross_entropy(self.model(self.x), self.y, reduction="none")

    def gradient(self) -> None:
        self.model.zero_grad()
        self.losses().mean().backward()

    def base(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.named_parameters(), **BASE)

    def ours(self, name: str) -> tuple[Callable[[], Any], Callable[[], int]]:
        opt = build(name, self.base(), self.model, **complete_parameters(name, {}, total_steps=1000))
        closure = BatchLoss(opt, self.losses)
        return lambda: opt.step(closure), lambda: opt.gradient_evaluations

    def davda54(self, module: Any) -> Callable[[], Any]:
        opt = module.SAM(self.model.parameters(), torch.optim.SGD, rho=0.05, **BASE)

        def step() -> None:  # the loop of its README
            self.losses().mean().backward()
            opt.first_step(zero_grad=True)
            self.losses().mean().backward()
            opt.second_step(zero_grad=True)

        return step

    def pytorch_optimizer(self, module: Any) -> Callable[[], Any]:
        opt = module.SAM(self.model.parameters(), torch.optim.SGD, rho=0.05, **BASE)

        def step() -> None:
            self.losses().mean().backward()
            opt.first_step(zero_grad=True)
            self.losses().mean().backward()
            opt.second_step(zero_grad=True)

        return step


def measure(case: Case, rounds: int, names: list[str], peers: dict[str, Any]) -> pd.DataFrame:
    steps: dict[str, Callable[[], Any]] = {}
    counts: dict[str, Callable[[], int]] = {}
    for name in names:
        steps[name], counts[name] = case.ours(name)
    for name, module in peers.items():
        steps[name] = case.davda54(module) if name.startswith("davda54") else case.pytorch_optimizer(module)
    timings: dict[str, list[tuple[float, float, float]]] = {name: [] for name in steps}
    chance = random.Random(0)
    for number in range(rounds + 2):
        for name in chance.sample(sorted(steps), len(steps)):
            before = counts[name]() if name in counts else 0
            seconds = timed(steps[name], case.device)
            plain = timed(case.gradient, case.device)
            if number >= 2:  # two rounds of warm-up
                timings[name].append((seconds, plain, counts[name]() - before if name in counts else 2))
    rows = []
    for name in steps:
        frame = pd.DataFrame(timings[name], columns=["seconds", "gradient", "evaluations"])
        # Lazy rules mix dear and cheap steps: the ratio of each step to its own evaluations, then the median.
        ratio = frame["seconds"] / (frame["evaluations"] * frame["gradient"])
        rows.append(
            {
                "optimizer": name,
                "milliseconds": 1e3 * frame["seconds"].median(),
                "evaluations": frame["evaluations"].mean(),
                "ratio": ratio.median(),
                "low": ratio.quantile(0.25),
                "high": ratio.quantile(0.75),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--davda54", type=Path, help="folder that holds sam.py of davda54/sam")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--return-memory", action="store_true", help="leave glibc's default")
    arguments = parser.parse_args()
    if not arguments.return_memory:
        keep_freed_memory()
    peers: dict[str, Any] = {}
    try:
        peers["pytorch_optimizer SAM"] = importlib.import_module("pytorch_optimizer")
    except ImportError:
        print("pytorch_optimizer is not installed: left out")
    if arguments.davda54:
        sys.path.insert(0, str(arguments.davda54))
        peers["davda54/sam"] = importlib.import_module("sam")
    cuda = arguments.device == "cuda"
    cases = {
        "mlp, batch 64": ("mlp", (1, 8, 8), 64),
        "resnet18_narrow, 3x32x32, batch 64": ("resnet18_narrow", (3, 32, 32), 64),
    }
    if cuda:
        cases = {"resnet18, 3x32x32, batch 256, bf16": ("resnet18", (3, 32, 32), 256)}
    frames = []
    for title, (model, shape, batch) in cases.items():
        rounds = arguments.rounds * (10 if model == "mlp" else 1)
        every = [name for name, entry in OPTIMIZERS.items() if not entry.needs_object]
        for names, times, what in ((every, 1, ""), (["sam"], 3, ", SAM alone")):
            frame = measure(Case(model, shape, batch, arguments.device), times * rounds, names, peers)
            frame.insert(0, "case", title + what)
            print(frame.to_string(index=False, float_format="%.3f"), flush=True)
            frames.append(frame)
    table = pd.concat(frames)
    device = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    stem = "optimizer_step_cuda" if cuda else "optimizer_step"
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{stem}.csv", index=False, float_format="%.4f")
    text = [
        "# Step time / (gradient evaluations x one gradient)\n\n",
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; medians of interleaved ",
        "rounds, with quartiles (`python benchmarks/optimizer_step.py`).\n",
    ]
    for title, frame in table.groupby("case", sort=False):
        text.append(
            f"\n## {title}\n\n| optimizer | ms a step | evaluations | ratio | quartiles |\n"
            "|---|---|---|---|---|\n"
        )
        text += [
            f"| {r.optimizer} | {r.milliseconds:.2f} | {r.evaluations:.2f} | {r.ratio:.3f} "
            f"| {r.low:.3f}, {r.high:.3f} |\n"
            for r in frame.itertuples()
        ]
    (RESULTS / f"{stem}.md").write_text("".join(text))


if __name__ == "__main__":
    main()
