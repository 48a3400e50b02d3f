"""docs/scaling.md shows what benchmarks/many_runs.py measured, and speaks of rows that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_is_the_committed_measurement() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    results = (ROOT / "benchmarks" / "results" / "many_runs.md").read_text(encoding="utf-8")
    table = page.split("<!-- TABLE (benchmarks/many_runs.py) -->\n")[1].split("<!-- /TABLE -->")[0]
    assert table.strip()
    assert results.endswith(table)
    rows = set(re.findall(r"^\| ([\w ]+) \| [\d.]+ \|", table, re.MULTILINE))
    assert set(re.findall(r'"(launch[\w ]*)"', page.split("<!-- /TABLE -->")[1])) <= rows
