"""Regenerate the rendered example reports and the figures README quotes from them.

    python reports/make.py quickstart digits

Each suite is run (what has finished in runs/SUITE is kept) and rendered into reports/SUITE.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent


def run(suite: str) -> None:
    out = ROOT / "runs" / suite
    began = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "sharpbench",
            "run",
            str(ROOT / "suites" / f"{suite}.toml"),
            "--out",
            str(out),
        ],
        check=True,
    )
    print(f"{suite}: {time.perf_counter() - began:.0f} s for what was not there yet")
    target = ROOT / "reports" / suite
    if target.exists():
        shutil.rmtree(target)
    subprocess.run(
        [sys.executable, "-m", "sharpbench", "report", str(out), "--out", str(target)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    # The page, the tables and the figures are the example; the frames belong to the runs.
    shutil.rmtree(target / "frames")


def quickstart_table() -> str:
    board = pd.read_csv(ROOT / "reports" / "quickstart" / "leaderboard.csv")
    rows = [
        "| optimizer | test accuracy, clean labels | half of them wrong | Δ sgd, paired | tr H | gradients |"
    ]
    rows.append("|---|---|---|---|---|---|")
    noisy = board[board["label_noise"] == 0.5].sort_values("rank")
    clean = board[board["label_noise"] == 0.0].set_index("optimizer")
    for row in noisy.itertuples():
        other = clean.loc[row.optimizer]
        difference = (
            "baseline"
            if pd.isna(row.difference)
            else f"{row.difference:+.1f} [{row.difference_low:+.1f}, {row.difference_high:+.1f}]"
        )
        rows.append(
            f"| {row.optimizer} | {other['test_accuracy']:.1f} ± {other['test_accuracy_half_width']:.1f} % "
            f"| {row.test_accuracy:.1f} ± {row.test_accuracy_half_width:.1f} % | {difference} "
            f"| {row.trace:.0f} ± {row.trace_error:.0f} | {row.cost_ratio:.0f}× |"
        )
    return "\n".join(rows)


def update_readme() -> None:
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    block = f"<!-- QUICKSTART (reports/make.py) -->\n{quickstart_table()}\n<!-- /QUICKSTART -->"
    new = re.sub(r"<!-- QUICKSTART.*?<!-- /QUICKSTART -->", lambda match: block, text, flags=re.DOTALL)
    path.write_text(new, encoding="utf-8")


def main() -> None:
    for suite in sys.argv[1:] or ["quickstart"]:
        run(suite)
    if (ROOT / "reports" / "quickstart").exists():
        update_readme()


if __name__ == "__main__":
    main()
