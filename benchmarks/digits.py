"""How long suites/digits.toml takes against an earlier commit: both trees in turn, on the same machine.

Run: ``python benchmarks/digits.py COMMIT`` (50 minutes on two cores; ``--seeds 1`` for a fifth of that), on
a quiet machine. Each tree runs its own suite, one seed at a time, by its own ``sharpbench run --workers 2``
with its report; where tcmalloc or jemalloc is installed, this tree runs it a second time with the system's
allocator, which is what a machine without them has. Writes benchmarks/results/digits.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sharpbench.allocator import installed_allocator

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "digits.md"
Figures = dict[tuple[str, ...], float]


def tree(commit: str, place: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "checkout", "--quiet", "--detach", commit], check=True)
    return place


def one_seed(place: Path, seed: int, allocator: str) -> tuple[float, float, Figures]:
    """Wall and CPU seconds of the tree's suite for one seed, and the test accuracy of every run."""
    text = (place / "suites" / "digits.toml").read_text()
    suite = place / "suites" / f"digits_{seed}.toml"
    suite.write_text(re.sub(r"^seed = .*$", f"seed = [{seed}]", text, flags=re.MULTILINE))
    environment = os.environ | {"PYTHONPATH": str(place), "SHARPBENCH_ALLOCATOR": allocator}
    command = [sys.executable, "-m", "sharpbench.cli", "run", str(suite), "--workers", "2"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, accuracies(place / "runs" / suite.stem)


def accuracies(out: Path) -> Figures:
    found: Figures = {}
    for result in out.glob("runs/*/result.json"):
        spec = json.loads((result.parent / "spec.json").read_text())
        outcome = json.loads(result.read_text())
        task, method = spec["task"], spec["optimizer"]
        name = method.get("label") or method["name"]
        key = (name, task["model"], task["label_noise"], task["train_fraction"])
        if outcome["status"] == "done":
            found[tuple(map(str, (*key, spec["seed"])))] = outcome["metrics"]["test_accuracy"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the earlier state to compare with")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    # name of the column, commit, SHARPBENCH_ALLOCATOR
    cases = [("then", options.commit, ""), ("now", "HEAD", "")]
    if installed_allocator():
        cases.append(("now, system's allocator", "HEAD", "system"))
    rows, differences, equal = [], [], 0
    with tempfile.TemporaryDirectory() as temporary:
        trees = [tree(commit, Path(temporary, str(i))) for i, (_, commit, _) in enumerate(cases)]
        for seed in range(options.seeds):
            # The order turns, so that no case always runs first.
            order = [(seed + i) % len(cases) for i in range(len(cases))]
            measured = {which: one_seed(trees[which], seed, cases[which][2]) for which in order}
            (*_, then), (*_, now) = measured[0], measured[1]
            rows.append([measured[which][:2] for which in range(len(cases))])
            for key in then.keys() & now.keys():
                differences.append(100 * (now[key] - then[key]))
                equal += then[key] == now[key]
            if any(measured[which][2] != now for which in range(2, len(cases))):
                raise SystemExit("error: the allocator changes accuracies, which it must not")
            print(seed, *(f"{wall:.1f}" for wall, _ in rows[-1]), flush=True)
    RESULTS.write_text(page(options.commit, [name for name, *_ in cases], np.array(rows), differences, equal))
    print(RESULTS.read_text())


def page(commit: str, names: list[str], rows: np.ndarray, differences: list[float], equal: int) -> str:
    """``rows``: wall and CPU seconds, (seeds, cases, 2); the first case is the earlier commit."""
    ratio = rows[:, :1, 0] / rows[:, 1:, 0]
    total = rows.sum(0)
    error = np.std(differences, ddof=1) / len(differences) ** 0.5
    which = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%h of %ad", "--date=short", commit],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()

    def line(name: object, cells: np.ndarray) -> str:
        texts = [f"{wall:.0f} | {cpu:.0f}" for wall, cpu in cells]
        texts += [f"{cells[0, 0] / wall:.2f}" for wall, _ in cells[1:]]
        return " | ".join([f"| {name}", *texts]) + " |"

    heads = [f"{name}: wall (s) | CPU (s)" for name in names] + [f"then / {name}" for name in names[1:]]
    lines = [
        "# The digits suite, then and now",
        "",
        f"`python benchmarks/digits.py {commit}`, 2 cores: {len(differences)} runs (those that diverged in "
        f"neither) by commit {which} and by this one, a seed at a time in turn, launch and report included. "
        f"Allocator of this one's workers: {installed_allocator() or 'the system its own'}.",
        "",
        "| seed | " + " | ".join(heads) + " |",
        "|---" * (1 + 2 * len(names) + len(names) - 1) + "|",
        *(line(seed, cells) for seed, cells in enumerate(rows)),
        line("all", total),
        "",
        *(
            f"Then / {name}: {total[0, 0] / total[1 + i, 0]:.2f} times (by seed {ratio[:, i].min():.2f} to "
            f"{ratio[:, i].max():.2f})."
            for i, name in enumerate(names[1:])
        ),
        "",
        f"Test accuracy, now less then: {np.mean(differences):+.3f} ± {error:.3f} points (mean and standard "
        f"error of the runs; {equal} of {len(differences)} equal).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
