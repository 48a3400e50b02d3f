"""Several seeds as one program: does `torch.func` train eight small networks faster than a loop over them?

    python benchmarks/vmapped_seeds.py [--rounds N] [--epochs N] [--seeds K]

Digits, SGD (momentum .9, weight decay 5e-4, batches of 64), the MLP and the small CNN. Four ways to the same
weights: one seed after the other, and all seeds stacked (`stack_module_state`, `vmap`), each in one process
of one thread and in two processes, pinned to a core each, of half the seeds each. The four take turns within
each round (interleaved, in an order drawn anew), medians over the rounds. First the script checks in float64
that stacked and single training end in the same weights and BatchNorm statistics.
Writes benchmarks/results/vmapped_seeds.md and .csv.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sharpbench.allocator import keep_freed_memory
from sharpbench.data import load
from sharpbench.models import build_model

RESULTS = Path(__file__).parent / "results"
MODELS = ("mlp", "small_cnn")
BATCH = 64
State = dict[str, Tensor]
# Shipped when it gains this much on both networks: less would not pay for a second training loop.
WORTH = 1.5


class Problem:
    """The training split of digits and, by seed, a network and the order of its mini-batches."""

    def __init__(self, model: str, dtype: torch.dtype = torch.float32) -> None:
        digits = load("digits")
        self.model, self.dtype = model, dtype
        self.shape, self.classes = digits.shape, digits.classes
        self.x, self.y = digits.normalise(digits.train.inputs).to(dtype), digits.train.labels
        self.batches = round(len(self.y) / BATCH)

    def network(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(self.model, self.shape, self.classes).to(self.dtype)

    def order(self, seed: int, epoch: int) -> Tensor:
        return torch.randperm(len(self.y), generator=torch.Generator().manual_seed(1000 * seed + epoch))


def optimizer(weights: Sequence[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=5e-4, foreach=True)


def one_after_the_other(problem: Problem, seeds: Sequence[int], epochs: int) -> list[State]:
    found = []
    for seed in seeds:
        model = problem.network(seed)
        sgd = optimizer(list(model.parameters()))
        for epoch in range(epochs):
            for rows in problem.order(seed, epoch).tensor_split(problem.batches):
                sgd.zero_grad()
                nn.functional.cross_entropy(model(problem.x[rows]), problem.y[rows]).backward()
                sgd.step()
        found.append(dict(model.state_dict()))
    return found


def stacked(problem: Problem, seeds: Sequence[int], epochs: int) -> list[State]:
    """SGD acts element by element, so torch's own steps on stacked weights are each seed's.

    The gradient is that of the sum of all seeds' losses, in which each has its own weights: `backward`
    outside of `vmap` was faster here than `vmap(grad)`.
    """
    models = [problem.network(seed) for seed in seeds]
    weights, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    sgd = optimizer(list(weights.values()))

    def loss(own: State, statistics: State, x: Tensor, y: Tensor) -> tuple[Tensor, State]:
        # BatchNorm writes into the buffers it is given: into copies, which are handed back.
        fresh = {name: value.clone() for name, value in statistics.items()}
        return nn.functional.cross_entropy(functional_call(skeleton, (own, fresh), (x,)), y), fresh

    losses = vmap(loss)
    for epoch in range(epochs):
        orders = torch.stack([problem.order(seed, epoch) for seed in seeds])
        for rows in orders.tensor_split(problem.batches, 1):
            sgd.zero_grad()
            each, buffers = losses(weights, buffers, problem.x[rows], problem.y[rows])
            each.sum().backward()
            sgd.step()
    return [
        {name: value[index].detach() for name, value in {**weights, **buffers}.items()}
        for index in range(len(seeds))
    ]


PROGRAMS: dict[str, Callable[[Problem, Sequence[int], int], list[State]]] = {
    "one after the other": one_after_the_other,
    "stacked": stacked,
}


def check(model: str, seeds: Sequence[int]) -> float:
    """The largest relative difference in weights and statistics after an epoch in float64."""
    problem = Problem(model, torch.float64)
    alone, together = (program(problem, seeds, 1) for program in PROGRAMS.values())
    return max(
        float((a[key].detach() - b[key]).norm() / a[key].detach().norm())
        for a, b in zip(alone, together, strict=True)
        for key in a
        if a[key].is_floating_point()
    )


def worker(core: int, connection: Connection) -> None:
    """Train what is asked for, on one core, until told to stop."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    keep_freed_memory()
    problems = {model: Problem(model) for model in MODELS}
    while (job := connection.recv()) is not None:
        model, program, seeds, epochs = job
        PROGRAMS[program](problems[model], seeds, epochs)
        connection.send(True)


class Workers:
    """Processes that train at the same time; ``seconds`` is until the last is done."""

    def __init__(self, cores: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections, self.processes = [], []
        for core in cores:
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(core, theirs), daemon=True)
            process.start()
            self.connections.append(ours)
            self.processes.append(process)

    def seconds(self, count: int, model: str, program: str, seeds: Sequence[int], epochs: int) -> float:
        start = time.perf_counter()
        for index, connection in enumerate(self.connections[:count]):
            connection.send((model, program, seeds[index::count], epochs))
        for connection in self.connections[:count]:
            connection.recv()
        return time.perf_counter() - start

    def close(self) -> None:
        for connection, process in zip(self.connections, self.processes, strict=True):
            connection.send(None)
            process.join()


def measure(rounds: int, seeds: Sequence[int], epochs: int) -> pd.DataFrame:
    workers = Workers(sorted(os.sched_getaffinity(0))[:2])
    ways = [(model, program, count) for model in MODELS for program in PROGRAMS for count in (1, 2)]
    timings: dict[tuple[str, str, int], list[float]] = {way: [] for way in ways}
    chance = random.Random(0)
    try:
        for number in range(rounds + 1):
            for model, program, count in chance.sample(ways, len(ways)):
                seconds = workers.seconds(count, model, program, seeds, epochs)
                if number:  # the first round warms up
                    timings[model, program, count].append(len(seeds) / seconds)
    finally:
        workers.close()
    rows = []
    for (model, program, count), rates in timings.items():
        rate = pd.Series(rates)
        low, high = rate.quantile([0.25, 0.75])
        rows.append((model, program, count, rate.median(), low, high))
    return pd.DataFrame(rows, columns=["model", "program", "processes", "seeds_per_second", "low", "high"])


def gains(frame: pd.DataFrame) -> dict[tuple[str, int], float]:
    """How many times as many seeds a second by stacking, by network and number of processes."""
    rate = frame.set_index(["model", "program", "processes"])["seeds_per_second"]
    return {
        (model, count): rate[model, "stacked", count] / rate[model, "one after the other", count]
        for model in MODELS
        for count in (1, 2)
    }


def conclusion(frame: pd.DataFrame) -> str:
    found = gains(frame)
    told = "; ".join(f"{m}: {found[m, 1]:.2f} times in one process, {found[m, 2]:.2f} in two" for m in MODELS)
    if min(found.values()) >= WORTH:
        return f"Stacking wins on both networks ({told}): worth shipping as a launcher of equal runs."
    return (
        f"Not shipped. Seeds a second by stacking, over a loop: {told}; it would have to be {WORTH} times on "
        "both networks to pay for a second training loop. What it would cost besides: every optimizer here "
        "takes norms over one network (they would have to be taken seed by seed), rules that look at a "
        "gradient and decide would have to decide for all seeds at once, and a run would no longer be a "
        "function of its own specification alone, since its last bits would depend on what it was stacked "
        "with. `sharpbench run --workers N` puts a process on each core instead."
    )


def page(
    frame: pd.DataFrame, differences: dict[str, float], rounds: int, seeds: Sequence[int], epochs: int
) -> str:
    rate = frame.set_index(["model", "program", "processes"])["seeds_per_second"]
    second = ", ".join(f"{rate[m, p, 2] / rate[m, p, 1]:.2f} ({m}, {p})" for m in MODELS for p in PROGRAMS)
    lines = [
        "# Seeds a second: stacked by `torch.func`, or one after the other",
        "",
        f"{len(seeds)} seeds of {epochs} epochs on digits (SGD, batches of {BATCH}); {platform.machine()} "
        f"CPU, one thread a process, torch {torch.__version__}; medians of {rounds} interleaved rounds, with "
        "quartiles. `python benchmarks/vmapped_seeds.py`.",
        "",
        "| network | program | processes | seeds a second | quartiles |",
        "|---|---|---|---|---|",
        *(
            f"| {row.model} | {row.program} | {row.processes} | {row.seeds_per_second:.2f} "
            f"| {row.low:.2f}, {row.high:.2f} |"
            for row in frame.itertuples()
        ),
        "",
        "Weights and BatchNorm statistics after an epoch in float64 differ by "
        + ", ".join(f"{value:.0e} ({model})" for model, value in differences.items())
        + " of their length between the two programs.",
        "",
        f"A second process multiplies the seeds a second by {second}. Where that is far from 2, the "
        "machine's two cores can't both work at the full speed of one, and the rows of two processes say "
        "little of other machines.",
        "",
        conclusion(frame),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = list(range(arguments.seeds))
    differences = {model: check(model, seeds[:3]) for model in MODELS}
    if max(differences.values()) > 1e-6:
        raise SystemExit(f"stacked and single training differ: {differences}")
    frame = measure(arguments.rounds, seeds, arguments.epochs)
    print(frame.to_string(index=False, float_format="%.3f"))
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "vmapped_seeds.csv", index=False, float_format="%.4f")
    text = page(frame, differences, arguments.rounds, seeds, arguments.epochs)
    (RESULTS / "vmapped_seeds.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
