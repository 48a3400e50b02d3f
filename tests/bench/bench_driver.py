"""A launcher process that tests may kill: ``python bench_driver.py OUT LABELS SEEDS EPOCHS WORKERS``."""

import sys
from pathlib import Path

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings

if __name__ == "__main__":
    import bench_runs

    out, labels, seeds, epochs, workers = sys.argv[1:]
    plan = bench_runs.make_plan(labels.split(","), int(seeds), int(epochs))
    settings = Settings(execute=bench_runs.EXECUTE, workers=int(workers))
    for outcome in run_plan(plan, Path(out), "local", settings):
        print(outcome.run_id, outcome.status, outcome.here, flush=True)
