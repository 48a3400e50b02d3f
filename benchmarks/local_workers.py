"""How much faster two local workers finish a suite than one: ``python benchmarks/local_workers.py``.

Forty runs of one to three seconds (an MLP on the digits, with measures), in a fresh directory each time;
the time is that of the whole launch, from the first process started to the last one stopped.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.suite import read_suite

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

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "workers.toml"
        path.write_text(SUITE)
        plan = read_suite(path).plan
        seconds = {}
        for workers in (1, 2):
            began = time.perf_counter()
            outcomes = run_plan(
                plan, Path(folder) / str(workers), "local", Settings(device="cpu", workers=workers)
            )
            seconds[workers] = time.perf_counter() - began
            assert {outcome.status for outcome in outcomes} == {"done"}
            print(f"{workers} worker(s): {len(outcomes)} runs in {seconds[workers]:.1f} s", flush=True)
        print(f"ratio {seconds[1] / seconds[2]:.2f}")
