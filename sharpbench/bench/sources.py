"""Which version of an optimizer's source made a result, where the optimizer is one's own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import read_bytes
from ..source import UNKNOWN, module_of, read_source

#: the key of ``result.json`` and ``provenance.json``
KEY = "optimizer_source"


def recorded_source(result: Mapping[str, Any]) -> str:
    """The digest in a ``result.json``; UNKNOWN in those of versions that recorded none."""
    found = result.get(KEY)
    return found if isinstance(found, str) else UNKNOWN


def started_source(directory: Path, optimizer: str) -> str:
    """The digest that a run, ended or not, noted when it began; UNKNOWN where there is none."""
    try:
        content = json.loads(read_bytes(directory / "provenance.json"))
        found = content[KEY][optimizer]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return UNKNOWN
    return found if isinstance(found, str) else UNKNOWN


def is_outdated(recorded: str, now: str) -> bool:
    """Whether another version than the present one made a result, as far as both are known.

    >>> is_outdated("ab12", "cd34"), is_outdated("ab12", "ab12"), is_outdated("unknown", "cd34")
    (True, False, False)
    """
    return UNKNOWN not in (recorded, now) and recorded != now


def source_notes(made: Iterable[tuple[str, str]], *, compare_with_disk: bool) -> list[str]:
    """What a reader must know about results, given as (optimizer, recorded source): one line each.

    Several versions of one optimizer, versions that are not known, and, with ``compare_with_disk``,
    results of another version than the file that lies there now.
    """
    by_optimizer: dict[str, Counter[str]] = {}
    for optimizer, source in made:
        if module_of(optimizer):
            by_optimizer.setdefault(optimizer, Counter())[source] += 1
    notes = []
    for optimizer, counts in by_optimizer.items():
        if len(counts) > 1:
            versions = ", ".join(f"{count} by {source}" for source, count in sorted(counts.items()))
            notes.append(f"results of {optimizer} are of different versions of its source: {versions}")
        elif UNKNOWN in counts:
            notes.append(f"{counts[UNKNOWN]} results of {optimizer} don't say which source made them")
        now = read_source(module_of(optimizer)).digest if compare_with_disk else UNKNOWN
        old = sum(count for source, count in counts.items() if is_outdated(source, now))
        if old:
            notes.append(
                f"{old} results of {optimizer} were made by another version of its source than there is now "
                f"({now}); `sharpbench run` makes them again"
            )
    return notes
