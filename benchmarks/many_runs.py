"""Ten thousand runs that do nothing: what the harness itself costs.

    python benchmarks/many_runs.py [--runs 10000]

Plans, launches (local, 2 workers), collects and reports, each in a process of its own, and writes seconds,
peak memory and file operations to benchmarks/results/many_runs.md. Where Ray is installed, the runs are
also launched through it. A no-op run writes every file that a
real one does, copied from one real run, so that reading and reporting cost what they cost for real.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "many_runs.md"
PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
BEGIN, END = "<!-- TABLE (benchmarks/many_runs.py) -->\n", "<!-- /TABLE -->"
SAMPLE = "SHARPBENCH_SAMPLE_RUN"
SUITE = """
title = "Runs that do nothing"
[task]
epochs = 10
[matrix]
label_noise = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
seed = [{seeds}]
[[optimizer]]
name = "sgd"
[[optimizer]]
name = "sam"
rho = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
[[optimizer]]
name = "asam"
rho = [0.1, 0.2, 0.5, 1.0, 2.0]
[[optimizer]]
name = "infosam"
rho = [0.02, 0.05, 0.1, 0.2]
[[optimizer]]
name = "vasso"
rho = [0.02, 0.05, 0.1, 0.2]
[measure]
measures = ["spectrum", "sam_sharpness"]
"""
METHODS, CONDITIONS = 20, 10
WRITTEN = ("result.json", "spec.json", "measures.parquet", "model.safetensors")


def execute(spec: Any, directory: Path, listener: Any = None, device: str | None = None) -> str:
    """A run that copies the files of the sample, and gives itself numbers that depend on its spec."""
    from sharpbench.bench.artifacts import save_frame
    from sharpbench.bench.inventory import inventory, sealed
    from sharpbench.files import write_json

    sample = Path(os.environ[SAMPLE])
    for path in sample.iterdir():
        if path.name not in ("result.json", "spec.json", "model.safetensors") and not path.name.startswith(
            "."
        ):
            shutil.copyfile(path, directory / path.name)
    write_json(directory / "spec.json", spec.model_dump(mode="json"))
    result = json.loads((sample / "result.json").read_bytes())
    shift = int(spec.id[:6], 16) / 2**24 / 100
    metrics = result["metrics"]
    for name in ("test_accuracy", "noisy_test_accuracy"):
        metrics[name] -= shift
    metrics["accuracy_gap"] += shift
    # Other values in every run, or the statistics of the report would have nothing to do.
    measures = sample_measures(sample).copy()
    spread = [int(spec.id[place : place + 4], 16) / 2**16 for place in range(4, 12)]
    measures["value"] *= [1.0 + shift + spread[row % 8] for row in range(len(measures))]
    save_frame(directory / "measures.parquet", measures)
    result |= {"run_id": spec.id, "files": inventory(directory)}
    write_json(directory / "result.json", sealed(result))
    return "done"


@cache
def sample_measures(sample: Path) -> Any:
    """Read once: a run writes tables, and reads none."""
    import pandas as pd

    return pd.read_parquet(sample / "measures.parquet")


def plan(folder: Path) -> None:
    """Read, check and expand the suite, and price nothing."""
    from sharpbench.bench.store import open_store
    from sharpbench.bench.suite import read_suite

    open_store(folder / "out", read_suite(folder / "many.toml").plan)


def launch(folder: Path) -> None:
    """All runs through two local workers."""
    from sharpbench.bench.drive import run_plan
    from sharpbench.bench.launch import Settings
    from sharpbench.bench.store import read_plan

    settings = Settings(execute="many_runs:execute", workers=2)
    outcomes = run_plan(read_plan(folder / "out"), folder / "out", "local", settings)
    assert all(outcome.status == "done" for outcome in outcomes), outcomes[0]


def launch_ray(folder: Path) -> None:
    """All runs again, elsewhere, as tasks of a Ray cluster of two CPUs on this machine."""
    from sharpbench.bench.drive import run_plan
    from sharpbench.bench.launch import Settings
    from sharpbench.bench.store import read_plan

    settings = Settings(execute="many_runs:execute", workers=2, device="cpu")
    outcomes = run_plan(read_plan(folder / "out"), folder / "ray", "ray", settings)
    assert all(outcome.status == "done" for outcome in outcomes), outcomes[0]


def status(folder: Path) -> None:
    """The state of every run, as `sharpbench status` asks for it."""
    from sharpbench.bench.store import Store, read_plan

    store = Store(folder / "out")
    assert all(store.state(run.run_id)[0] == "done" for run in read_plan(folder / "out").runs)


def launch_nothing(folder: Path) -> None:
    """The same suite started again: nothing is left to do."""
    from sharpbench.bench.drive import run_plan
    from sharpbench.bench.store import read_plan

    assert run_plan(read_plan(folder / "out"), folder / "out") == []


def gather(folder: Path) -> None:
    """Every file into frames."""
    from sharpbench.report import collect

    assert (collect(folder / "out").runs["status"] == "done").all()


def report(folder: Path) -> None:
    """Frames, statistics, figures, page."""
    from sharpbench.report import render

    render(folder / "out")


def operations(folder: Path, pipe: Any) -> None:
    """What one real run asks of the file system for its own directory."""
    from sharpbench.bench.launch import Job, Settings
    from sharpbench.bench.launch.attempt import attempt
    from sharpbench.bench.store import read_plan

    run = read_plan(folder / "out").runs[0]
    counts: Counter[str] = Counter()
    names = {"open", "os.rename", "os.remove", "os.mkdir", "os.utime", "os.listdir", "os.scandir"}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in names and run.run_id in str(arguments[0]):
            counts[event.removeprefix("os.")] += 1

    sys.addaudithook(audit)
    outcome = attempt(Job(run.spec, folder / "audited" / run.run_id), Settings(device="cpu"), capture=True)
    assert outcome is not None
    assert outcome.status == "done", outcome
    pipe.send(dict(counts))


STEPS: dict[str, Callable[[Path], None]] = {
    "plan": plan,
    "launch": launch,
    "launch again": launch_nothing,
    "status": status,
    "collect": gather,
    "report": report,
}
if importlib.util.find_spec("ray") is not None:
    STEPS["launch through Ray"] = launch_ray


def measure(name: str, folder: Path, pipe: Any) -> None:
    """Carry out one step, and send seconds and peak memory (its workers' too)."""
    began = time.perf_counter()
    STEPS[name](folder)
    seconds = time.perf_counter() - began
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    pipe.send((seconds, own / 1024, children / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--keep", type=Path, help="use this folder, and keep it")
    chosen = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    folder = chosen.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    seeds = max(1, chosen.runs // (METHODS * CONDITIONS))
    (folder / "many.toml").write_text(SUITE.format(seeds=", ".join(map(str, range(seeds)))))
    sample = make_sample(folder)
    os.environ[SAMPLE] = str(sample)
    found: dict[str, tuple[float, float, float]] = {}
    for name in chosen.steps:
        found[name] = in_a_process(measure, name, folder)
        print(f"{name}: {found[name][0]:.1f} s, {found[name][1]:.0f} MiB", flush=True)
    if set(STEPS) <= set(chosen.steps):
        write_results(folder / "out", found, in_a_process(operations, folder))
    if chosen.keep is None:
        shutil.rmtree(folder)


def in_a_process(function: Callable[..., None], *arguments: Any) -> Any:
    """What ``function`` sends through the pipe that it gets as its last argument."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=function, args=(*arguments, there))
    process.start()
    there.close()
    answer = here.recv()
    process.join()
    return answer


def make_sample(folder: Path) -> Path:
    """One real run, for its files; in another process, so that this one stays small."""
    if not (folder / "sample" / "result.json").exists():
        process = multiprocessing.get_context("spawn").Process(target=sample_run, args=(folder,))
        process.start()
        process.join()
    return folder / "sample"


def sample_run(folder: Path) -> None:
    from sharpbench.bench.run import execute as really
    from sharpbench.bench.suite import read_suite

    really(read_suite(folder / "many.toml").plan.runs[0].spec, folder / "sample")


def write_results(out: Path, found: dict[str, tuple[float, float, float]], asked: dict[str, int]) -> None:
    directories = list((out / "runs").iterdir())
    files = [entry for entry in directories[0].iterdir() if entry.is_file()]
    size = sum(entry.stat().st_size for entry in files)
    page = out / "report" / "index.html"
    count = len(directories)
    lines = [
        f"{count} runs that do nothing; each step in a process of its own, with the peak memory of that "
        "process and of the largest of its children.",
        "",
        "| step | seconds | runs a second | peak MiB | largest child, MiB |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {seconds:.1f} | {count / seconds:.0f} | {own:.0f} | {child:.0f} |"
            for name, (seconds, own, child) in found.items()
        ),
        "",
        f"A run directory: {len(files)} files, {size / 1024:.0f} KiB (weights left out). "
        f"plan.json: {(out / 'plan.json').stat().st_size / 2**20:.1f} MiB. "
        f"The page: {page.stat().st_size / 2**20:.1f} MiB.",
        "",
        "One real run asks the file system, for its own directory (stat aside): "
        + ", ".join(f"{count} {name}" for name, count in sorted(asked.items()))
        + ".",
        "",
        f"Python {platform.python_version()}, {platform.system()}, {len(os.sched_getaffinity(0))} cores.",
        "",
    ]
    table = "\n".join(lines)
    RESULTS.write_text(f"# Many runs\n\nWritten by `python benchmarks/many_runs.py`.\n\n{table}")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
