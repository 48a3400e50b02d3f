"""How long suites/digits.toml takes against an earlier commit: both trees in turn, on the same machine.

Run: ``python benchmarks/digits.py COMMIT`` (half an hour on two cores; ``--seeds 1`` for a fifth of that), on
a quiet machine. Each tree runs its own suite, one seed at a time, by its own ``sharpbench run --workers 2``
with its report. Writes benchmarks/results/digits.md.
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

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "digits.md"
Figures = dict[tuple[str, ...], float]


def tree(commit: str, place: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "checkout", "--quiet", "--detach", commit], check=True)
    return place


def one_seed(place: Path, seed: int) -> tuple[float, float, Figures]:
    """Wall and CPU seconds of the tree's suite for one seed, and the test accuracy of every run."""
    text = (place / "suites" / "digits.toml").read_text()
    suite = place / "suites" / f"digits_{seed}.toml"
    suite.write_text(re.sub(r"^seed = .*$", f"seed = [{seed}]", text, flags=re.MULTILINE))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(place)}
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
    rows, differences, equal = [], [], 0
    with tempfile.TemporaryDirectory() as temporary:
        trees = [tree(options.commit, Path(temporary, "then")), tree("HEAD", Path(temporary, "now"))]
        for seed in range(options.seeds):
            order = (0, 1) if seed % 2 == 0 else (1, 0)
            measured = {which: one_seed(trees[which], seed) for which in order}
            then, now = measured[0], measured[1]
            rows.append((then[0], now[0], then[1], now[1]))
            for key in then[2].keys() & now[2].keys():
                differences.append(100 * (now[2][key] - then[2][key]))
                equal += then[2][key] == now[2][key]
            print(seed, *(f"{value:.1f}" for value in rows[-1]), flush=True)
    table = np.array(rows)
    total, ratio = table.sum(0), table[:, 0] / table[:, 1]
    error = np.std(differences, ddof=1) / len(differences) ** 0.5
    name = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%h of %ad", "--date=short", options.commit],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    lines = [
        "# The digits suite, then and now",
        "",
        f"`python benchmarks/digits.py {options.commit}`, 2 cores: {len(differences)} runs by commit {name} "
        "and by this one, a seed at a time in turn, launch and report included.",
        "",
        "| seed | wall then (s) | wall now (s) | ratio | CPU then (s) | CPU now (s) |",
        "|---|---|---|---|---|---|",
        *(
            f"| {seed} | {a:.0f} | {b:.0f} | {a / b:.2f} | {c:.0f} | {d:.0f} |"
            for seed, (a, b, c, d) in enumerate(rows)
        ),
        f"| all | {total[0]:.0f} | {total[1]:.0f} | {total[0] / total[1]:.2f} "
        f"| {total[2]:.0f} | {total[3]:.0f} |",
        "",
        f"As fast: {total[0] / total[1]:.2f} times (by seed {ratio.min():.2f} to {ratio.max():.2f}). Test "
        f"accuracy, now less then: {np.mean(differences):+.3f} ± {error:.3f} points (mean and standard error "
        f"of the runs; {equal} of {len(differences)} equal).",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
