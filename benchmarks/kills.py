"""Thirty SIGKILLs, of the launcher or of a worker, over a suite of short runs: nothing lost, nothing doubled.

    python benchmarks/kills.py [--kills 30] [--seed 0]

Runs a suite undisturbed, then again in another directory, where after a random time the launcher or one of
its workers is killed, and the suite started anew, until all kills are done. The two directories must then
hold the same runs, bit for bit (columns of time and the like aside), and the same frames.
Writes benchmarks/results/kills.md.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from sharpbench.bench.compare import TIMES, difference
from sharpbench.bench.store import Store, read_plan
from sharpbench.report import collect

SUITE = """
title = "Short runs"
[task]
epochs = {epochs}
train_fraction = 0.25
[matrix]
seed = [{seeds}]
[[optimizer]]
name = "sgd"
[[optimizer]]
name = "sam"
[measure]
measures = ["spectrum"]
hvps = 10
examples = 64
"""
LONGEST_WAIT = 4.0
RESULTS = Path(__file__).parent / "results"


def start(suite: Path, out: Path) -> subprocess.Popen[bytes]:
    """`sharpbench run` in a process group of its own, with two workers, checkpointing at every chance."""
    command = [sys.executable, "-m", "sharpbench.cli", "run", str(suite), "--out", str(out), "--quiet"]
    return subprocess.Popen(
        [*command, "--workers", "2", "--device", "cpu"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "SHARPBENCH_CHECKPOINT_SECONDS": "0.05"},
    )


def workers_of(launcher: int) -> list[int]:
    """Its child processes that serve runs (not the one that tracks its resources)."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    try:
        pids = [int(pid) for pid in children.read_text().split()]
        return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:
        return []


def disturb(suite: Path, out: Path, kills: int, seed: int) -> list[str]:
    """Kill and start again until ``kills`` are done and everything has ended; a line for each kill."""
    draw = random.Random(seed)
    lines: list[str] = []
    while True:
        process = start(suite, out)
        while process.poll() is None and len(lines) < kills:
            time.sleep(draw.uniform(0.2, LONGEST_WAIT))
            victim, what = process.pid, "launcher"
            workers = workers_of(process.pid)
            if workers and draw.random() < 0.5:
                victim, what = draw.choice(workers), "worker"
            if process.poll() is None:
                ended = len(list(out.glob("runs/*/result.json")))
                os.kill(victim, signal.SIGKILL)
                lines.append(f"kill {len(lines) + 1:2d}: {what:8s} after {ended:2d} results")
                if what == "launcher":
                    process.wait()
        _, errors = process.communicate()
        if process.returncode == 0 and len(lines) >= kills:
            return lines
        if process.returncode == 0:
            forget_some(out, draw)
        elif process.returncode > 0 and b"failed" not in errors:
            raise SystemExit(errors.decode())
        elif process.returncode > 0:
            # A run that cost three workers is a failure, as it must be; the kills were ours.
            forget_failures(out)


def forget_some(out: Path, draw: random.Random) -> None:
    """The suite has ended before the kills have: let it do half of the runs again."""
    results = sorted(out.glob("runs/*/result.json"))
    for path in draw.sample(results, len(results) // 2):
        path.unlink()


def forget_failures(out: Path) -> None:
    """As --retry-failed does."""
    for path in out.glob("runs/*/error.log"):
        path.unlink()


def same(one: Path, other: Path) -> list[str]:
    """What differs between two output directories; empty: nothing."""
    wrong = []
    plans = [read_plan(out) for out in (one, other)]
    if plans[0] != plans[1]:
        wrong.append("the plans differ")
    ids = {run.run_id for run in plans[0].runs}
    for out in (one, other):
        found = {path.name for path in (out / "runs").iterdir()}
        wrong += (
            [f"{out}: lost {sorted(ids - found)}, too many {sorted(found - ids)}"] if found != ids else []
        )
        wrong += [
            f"{run_id}: {Store(out).state(run_id)}" for run_id in ids if Store(out).state(run_id)[0] != "done"
        ]
    if wrong:
        return wrong
    for run_id in sorted(ids):
        first = difference(Store(one).directory(run_id), Store(other).directory(run_id))
        wrong += [f"{run_id}: {first}"] if first else []
    frames = [collect(out) for out in (one, other)]
    for name in ("runs", "history", "measures", "densities"):
        left, right = (getattr(found, name).drop(columns=list(TIMES), errors="ignore") for found in frames)
        try:
            pd.testing.assert_frame_equal(left, right, check_exact=True)
        except AssertionError as error:
            wrong.append(f"frame {name}: {error}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10, help="of the suite, for each of two optimizers")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--no-results", action="store_true", help="write no file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "short.toml"
        seeds = ", ".join(map(str, range(chosen.seeds)))
        suite.write_text(SUITE.format(seeds=seeds, epochs=chosen.epochs))
        undisturbed, disturbed = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        if start(suite, undisturbed).wait():
            raise SystemExit("the undisturbed suite failed")
        lines = disturb(suite, disturbed, chosen.kills, chosen.seed)
        wrong = same(undisturbed, disturbed)
        verdict = f"{chosen.kills} kills, {2 * chosen.seeds} runs: "
        verdict += "; ".join(wrong) or "none lost, none doubled, all frames bitwise equal"
        print("\n".join([*lines, verdict]))
        if not chosen.no_results:
            head = f"# A suite killed and started again\n\n`python benchmarks/kills.py`: {verdict}.\n\n"
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "kills.md").write_text(head + "".join(f"    {line}\n" for line in lines))
        raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
