"""Lets the tests of each room import that room's helper module by name, and marks the tests of numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for room in HERE.iterdir():
    if room.is_dir():
        sys.path.insert(0, str(room))

# Rooms whose tests compare numbers: `tox -e portable` repeats them as other processors would compute them.
# Single tests of other rooms carry the mark themselves. The examples of the docstrings belong to them too.
NUMERIC = [HERE / room for room in ("sharpness", "optim", "training", "models", "demo")]
NUMERIC += [HERE.parent / "sharpbench"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(room) for room in NUMERIC):
            item.add_marker(pytest.mark.equality)
