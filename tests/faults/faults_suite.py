"""The suite that faults are done to: four short runs, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench_bad_suites import GOOD

import sharpbench
from sharpbench.bench.suite import parse_suite

ROOT = Path(sharpbench.__file__).parent.parent
TEXT = GOOD.replace("epochs = 2", "epochs = 1").replace("[0, 1]", "0").replace("hvps = 20", "hvps = 10")
PLAN = parse_suite(TEXT, "small", "small.toml")
TIMES = ["wall_seconds", "train_seconds", "measure_seconds", "seconds"]


def command(*arguments: object, cwd: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """`sharpbench ARGUMENTS` in a process of its own, after the statements ``before``."""
    code = f"import sys\n{before}\nfrom sharpbench.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=180,
    )
