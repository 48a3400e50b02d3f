"""The smaller version of benchmarks/kills.py: real training, killed at seeded moments, the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import sharpbench

ROOT = Path(sharpbench.__file__).parent.parent


def test_four_kills_change_nothing() -> None:
    script = ROOT / "benchmarks" / "kills.py"
    small = ["--no-results", "--kills", "4", "--seeds", "2", "--epochs", "60"]
    done = subprocess.run(
        [sys.executable, str(script), *small], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("kill ")]) == 4
    assert lines[-1] == "4 kills, 4 runs: none lost, none doubled, all frames bitwise equal"
