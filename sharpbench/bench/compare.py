"""Are two directories the same run? Bit for bit, but for the clock, the machine and the memory it had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import read_bytes
from .inventory import UNRECORDED, inventory
from .sources import KEY

# What another machine, or the same one on another day, gives otherwise for the same run.
TIMES = frozenset(
    (
        "wall_seconds", "train_seconds", "measure_seconds", "seconds", "examples_per_second",
        "peak_memory_bytes",
    )
)  # fmt: skip
# One of the two may be of a version that recorded no source; merging compares the others by itself.
TIMES_AND_SOURCE = TIMES | {KEY}
NOT_COMPARED = ("provenance.json", *UNRECORDED)


def difference(one: Path, other: Path) -> str | None:
    """The first difference between two finished run directories, or None.

    Compared are ``result.json`` and every file it is made of; left out are columns and entries of time
    and memory, ``provenance.json`` (where it ran) and the digests of files that hold such columns.

    Returns:
        a clause such as ``"measures.parquet, column value, differs in row 3"``.
    """
    wrong = _result_difference(one, other)
    if wrong:
        return wrong
    files = [set(_compared(directory)) for directory in (one, other)]
    for name in sorted(files[0] ^ files[1]):
        return f"{name} is in only one of them"
    left, right = inventory(one), inventory(other)
    for name in sorted(files[0]):
        if left[name] == right[name]:
            continue
        wrong = _table_difference(one / name, other / name) if name.endswith(".parquet") else "differs"
        if wrong:
            return f"{name} {wrong}" if wrong == "differs" else f"{name}, {wrong}"
    return None


def _compared(directory: Path) -> list[str]:
    return [name for name in inventory(directory) if name not in NOT_COMPARED]


def _result_difference(one: Path, other: Path) -> str | None:
    left, right = (_without_times(json.loads(read_bytes(path / "result.json"))) for path in (one, other))
    for key in sorted(left.keys() | right.keys()):
        if left.get(key) != right.get(key):
            return f"result.json, {key}, is {_short(left.get(key))} and {_short(right.get(key))}"
    return None


def _without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in (*TIMES_AND_SOURCE, "files", "sha256")}


def _table_difference(one: Path, other: Path) -> str | None:
    left, right = (pq.read_table(path, use_threads=False) for path in (one, other))
    if left.schema.names != right.schema.names:
        return "which has other columns"
    if len(left) != len(right):
        return f"which has {len(left)} and {len(right)} rows"
    for name in left.schema.names:
        a, b = left[name].to_pylist(), right[name].to_pylist()
        # By their text: NaN is to equal NaN, and 0.0 not to equal -0.0.
        if name not in TIMES and [repr(x) for x in a] != [repr(x) for x in b]:
            row = next(place for place in range(len(a)) if repr(a[place]) != repr(b[place]))
            return f"column {name}, differs in row {row + 1}"
    return None


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:59]}…"


READ_ERRORS = (OSError, ValueError, RecursionError, pa.ArrowException)
