"""Join output directories: the parts of one suite that several machines ran."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidInput
from ..files import read_bytes
from ..source import UNKNOWN, module_of
from .claim import claimed
from .compare import READ_ERRORS, difference
from .plan import Plan, PlannedRun
from .sources import recorded_source, source_notes
from .store import ERROR_LOG, EVERYTHING, RESULT, Store, examine, open_store, read_plan

# Whoever holds a directory made these; they mean nothing in a copy.
_LEFT_BEHIND = (".lock", ".owner")


@dataclass
class Merged:
    """What :func:`merge` did: run ids and where they are from.

    Attributes:
        skipped: directory → what is wrong with it.
        notes: what a reader of the results must know about the sources of optimizers.
    """

    copied: dict[str, Path] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    failed: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def merge(out: Path, parts: Sequence[Path], *, mixed_sources: bool = False) -> Merged:
    """Copy every finished run of ``parts`` into ``out``, whose plan becomes the union of all plans.

    Every file is checked against what the run recorded (SHA-256). A run that several hold must be the same
    in all, times and memory aside. Everything is checked before anything is written; a run directory
    appears whole, by a rename, or not at all. Logs of failed runs come along where nobody has a result;
    unfinished runs don't.

    Args:
        out: where everything goes.
        parts: output directories of the same suite.
        mixed_sources: join results that different versions of an optimizer's own source made.

    Raises:
        InvalidInput: another suite, other axes, two different results of the same run (both are named), or
            results by different versions of the source of an optimizer named ``MODULE:CLASS``.
    """
    if not parts:
        raise InvalidInput("nothing to merge: name at least one output directory besides OUT")
    stores = [Store(part) for part in (*([out] if (out / "plan.json").exists() else []), *parts)]
    plan = _union([(store.out, read_plan(store.out)) for store in stores])
    done: dict[str, Path] = {}
    merged = Merged()
    for run in plan.runs:
        for store in stores:
            _consider(run, store.directory(run.run_id), done, merged)
    _compare_sources(plan, done, merged, mixed_sources)
    target = open_store(out, plan)
    try:
        for run_id, source in done.items():
            if source != target.directory(run_id):
                _copy(source, target.directory(run_id))
                merged.copied[run_id] = source
        for run_id, source in list(merged.failed.items()):
            if source != target.directory(run_id) and not target.directory(run_id).exists():
                _copy(source, target.directory(run_id))
    except OSError as error:
        raise InvalidInput(
            f"{out} can't be written ({error.strerror or error}); what was copied is whole"
        ) from None
    merged.missing = [run for run in dict.fromkeys(r.run_id for r in plan.runs) if run not in done]
    return merged


def _union(plans: Sequence[tuple[Path, Plan]]) -> Plan:
    place, first = plans[0]
    runs: dict[tuple[str, str], PlannedRun] = {}
    for path, plan in plans:
        for what in ("suite", "axes", "baseline"):
            mine, other = getattr(first, what), getattr(plan, what)
            if mine != other:
                raise InvalidInput(
                    f"{path} can't be merged with {place}: {what} is {other!r} there and {mine!r} here"
                )
        for run in plan.runs:
            if run.run_id != run.spec.id:
                raise InvalidInput(f"{path}: plan.json names run {run.run_id}, but its spec is {run.spec.id}")
            runs.setdefault((run.run_id, run.label), run)
    return first.model_copy(update={"runs": tuple(runs.values())})


def _consider(run: PlannedRun, directory: Path, done: dict[str, Path], merged: Merged) -> None:
    run_id = run.run_id
    result, damage = examine(directory, run_id, EVERYTHING)
    if damage:
        merged.skipped[str(directory)] = damage
    elif result is None:
        if (directory / ERROR_LOG).is_file() and run_id not in done:
            merged.failed.setdefault(run_id, directory)
    elif run_id not in done:
        done[run_id] = directory
        merged.failed.pop(run_id, None)
    elif done[run_id].resolve() != directory.resolve():
        known = recorded_source(json.loads(read_bytes(done[run_id] / RESULT)))
        if UNKNOWN not in (known, source := recorded_source(result)) and source != known:
            # Two results of one run: there is no joining both.
            raise _other_source(run.spec.optimizer.name, (known, done[run_id]), (source, directory))
        try:
            wrong = difference(done[run_id], directory)
        except READ_ERRORS as error:
            merged.skipped[str(directory)] = " ".join(str(error).split())
            return
        if wrong:
            raise InvalidInput(
                f"two results of run {run_id} ({run.title}): {done[run_id]} and {directory} differ: {wrong}; "
                f"{_advice(done[run_id], directory)}"
            )
        merged.same.append(run_id)


def _compare_sources(plan: Plan, done: dict[str, Path], merged: Merged, mixed: bool) -> None:
    """Refuse, or note, results of one optimizer by different versions of its source."""
    first: dict[str, tuple[str, Path]] = {}
    made: dict[str, tuple[str, str]] = {}
    for run in plan.runs:
        name, directory = run.spec.optimizer.name, done.get(run.run_id)
        if directory is None or not module_of(name) or run.run_id in made:
            continue
        source = recorded_source(json.loads(read_bytes(directory / RESULT)))
        made[run.run_id] = name, source
        if source == UNKNOWN:
            continue
        known, place = first.setdefault(name, (source, directory))
        if source != known and not mixed:
            raise _other_source(name, (known, place), (source, directory))
    merged.notes += source_notes(made.values(), compare_with_disk=False)


def _other_source(name: str, one: tuple[str, Path], other: tuple[str, Path]) -> InvalidInput:
    return InvalidInput(
        f"{name} has different sources: {one[1]} was made by {one[0]}, {other[1]} by {other[0]}; run one of "
        "the parts again with the other's source, or join them as they are with --mixed-sources (the report "
        "says so)"
    )


def _advice(one: Path, other: Path) -> str:
    """What to do about two results that differ; processors of different kinds are the usual cause."""
    kinds = []
    for directory in (one, other):
        try:
            kinds.append(str(json.loads(read_bytes(directory / "provenance.json"))["instructions"]))
        except (*READ_ERRORS, KeyError, TypeError):
            return "remove the one that is wrong"
    if kinds[0] == kinds[1]:
        return "remove the one that is wrong"
    return f"{kinds[0]} and {kinds[1]} instructions agree to rounding only: remove either"


def _copy(source: Path, target: Path) -> None:
    """``source`` as ``target``, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(*_LEFT_BEHIND, ".*.tmp*"))
        if target.exists():
            with claimed(target) as mine:
                if not mine:
                    raise InvalidInput(f"{target} is being worked on by another process; merge when it ended")
                old = target.with_name(f".{target.name}.{os.getpid()}.old")
                target.rename(old)
                temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
