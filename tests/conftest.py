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
NUMERIC = [HERE / room for room in ("sharpness", "optim", "training", "models", "demo", "reproducibility")]
NUMERIC += [HERE.parent / "sharpbench"]
# Files of these rooms that are about processes, memory and compilers; their numbers are tested beside them.
NOT_NUMERIC = {
    "test_conformance.py",
    "test_conformance_cli.py",
    "test_memory_is_freed.py",
    "test_optim_compile.py",
    "test_optim_ddp.py",
    "test_training_freed.py",
    "test_training_ranks.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        numeric = any(item.path.is_relative_to(room) for room in NUMERIC)
        if numeric and item.path.name not in NOT_NUMERIC:
            item.add_marker(pytest.mark.equality)
