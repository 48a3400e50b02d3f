"""How much faster two local workers finish a suite than one: ``python benchmarks/local_workers.py``.

Forty runs of one to three seconds (an MLP on the digits, with measures), in a fresh directory each time;
one worker and two in turn, three times. The time is that of the whole launch, from the first process started
to the last one stopped. Beside it, how many cores the workers kept busy: two workers that had fewer than
two say more of the machine.
Writes benchmarks/results/local_workers.md.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.suite import read_suite

RESULTS = Path(__file__).parent / "results"
ROUNDS = 3
SUITE = """
[task]
epochs = 30
[matrix]
seed = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
[[optimizer]]
name = "sgd"
[[optimizer]]
name = "sam"
rho = 0.05
[measure]
examples = 256
"""


def _workers_cpu() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workers.toml"
        path.write_text(SUITE)
        plan = read_suite(path).plan
        lines, ratios = [], []
        for number in range(ROUNDS):
            seconds = {}
            for workers in (1, 2):
                began, used = time.perf_counter(), _workers_cpu()
                settings = Settings(device="cpu", workers=workers)
                outcomes = run_plan(plan, Path(folder) / f"{number}-{workers}", "local", settings)
                seconds[workers] = time.perf_counter() - began
                assert {outcome.status for outcome in outcomes} == {"done"}
                cores = (_workers_cpu() - used) / seconds[workers]
                said = f"{len(outcomes)} runs in {seconds[workers]:.1f} s"
                lines.append(f"{workers} worker(s): {said}, {cores:.2f} cores busy")
                print(lines[-1], flush=True)
            ratios.append(seconds[1] / seconds[2])
        lines.append(f"ratios {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {median(ratios):.2f}")
        print(lines[-1])
    RESULTS.mkdir(exist_ok=True)
    head = "# Two local workers against one\n\n`python benchmarks/local_workers.py`"
    head += f", {os.cpu_count()} cores.\n\n"
    (RESULTS / "local_workers.md").write_text(head + "".join(f"    {line}\n" for line in lines))
