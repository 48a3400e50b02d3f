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
# Files and tests of these rooms that start processes, draw figures, compile, or look at structure and memory:
# they take long, and the numbers in them are those of the tests beside them.
NOT_NUMERIC = {
    "test_compile_sees_one_graph",
    "test_conformance.py",
    "test_conformance_cli.py",
    "test_it_writes_whole_files_and_the_same_bytes_twice",
    "test_memory_is_freed.py",
    "test_models.py",
    "test_models_page.py",
    "test_optim_compile.py",
    "test_optim_ddp.py",
    "test_parameter_counts.py",
    "test_portable.py",
    "test_sigkill_at_random_moments",
    "test_the_same_calls_give_the_same_bits_in_every_process",
    "test_training_freed.py",
    "test_training_ranks.py",
    "test_two_ranks_with_a_shard_each_measure_what_one_measures",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        numeric = any(item.path.is_relative_to(room) for room in NUMERIC)
        if numeric and NOT_NUMERIC.isdisjoint((item.path.name, item.name.partition("[")[0])):
            item.add_marker(pytest.mark.equality)
