"""What is wrong with an output directory: every inconsistency, each in one line, nothing changed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..files import read_bytes
from .claim import is_claimed, read_owner
from .plan import PlannedRun
from .sources import recorded_source, source_notes
from .store import ERROR_LOG, EVERYTHING, Store, examine, last_line, read_plan

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis: ``wrong`` is to be mended, ``note`` is worth knowing."""

    level: Level
    subject: str
    text: str


def diagnose(out: Path) -> list[Finding]:
    """Look at every file of an output directory; contents are compared with the recorded SHA-256.

    Raises:
        InvalidInput: there is no readable ``plan.json``.
    """
    plan = read_plan(out)
    store = Store(out)
    runs = {run.run_id: run for run in plan.runs}
    findings: list[Finding] = []
    versions: Counter[str] = Counter()
    made: list[tuple[str, str]] = []
    ended = 0
    for run_id, run in runs.items():
        if run.spec.id != run_id:
            findings.append(
                Finding("wrong", "plan.json", f"run {run_id} has the specification of {run.spec.id}")
            )
        result, damage = examine(store.directory(run_id), run_id, EVERYTHING)
        findings += _run(run, store.directory(run_id), result, damage)
        if result is not None:
            ended += 1
            versions[str(result.get("sharpbench", "unknown"))] += 1
            made.append((run.spec.optimizer.name, recorded_source(result)))
    if len(versions) > 1 or (versions and __version__ not in versions):
        counts = ", ".join(f"{count} by {version}" for version, count in sorted(versions.items()))
        findings.append(Finding("note", "versions", f"{counts}; this is sharpbench {__version__}"))
    findings += [Finding("note", "sources", note) for note in source_notes(made, compare_with_disk=True)]
    findings += _strangers(out, set(runs))
    findings += _report(out, store, list(runs))
    findings.append(Finding("ok", "runs", f"{ended} of {len(runs)} have ended and are whole"))
    return findings


def _run(run: PlannedRun, directory: Path, result: dict[str, Any] | None, damage: str) -> Iterator[Finding]:
    where = f"runs/{run.run_id}"
    if damage:
        yield Finding("wrong", where, f"{damage}; `sharpbench run` runs it again")
    if not directory.exists():
        return
    if not directory.is_dir() or directory.is_symlink():
        yield Finding("wrong", where, "is not a directory")
        return
    working = is_claimed(directory)
    owner = read_owner(directory)
    if working and owner is not None:
        yield Finding("note", where, f"process {owner.process} of {owner.host} is at work on it")
    elif owner is not None:
        yield Finding("note", where, f"process {owner.process} of {owner.host} died at work on it")
    if result is not None:
        if (directory / ERROR_LOG).exists():
            yield Finding("wrong", where, "has a result, and the log of a failure")
        if result.get("files") is None:
            yield Finding("note", where, "its result records no files, so they can't be checked")
        spec = _json(directory / "spec.json")
        if spec is not None and spec != run.spec.model_dump(mode="json"):
            yield Finding("wrong", where, "spec.json is not the specification in plan.json")
    elif not working and (directory / ERROR_LOG).exists():
        yield Finding("note", where, f"failed: {last_line(directory / ERROR_LOG)}")
    if not working:
        for entry in directory.iterdir():
            if entry.name.startswith(".") and (".tmp" in entry.name or entry.name.startswith(".recover-")):
                yield Finding("note", where, f"{entry.name} was left by a process that was killed")


def _json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return None


def _strangers(out: Path, planned: set[str]) -> Iterator[Finding]:
    folder = out / "runs"
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for entry in entries:
        if entry.name.startswith(".") and entry.name.endswith((".tmp", ".old")):
            yield Finding("note", f"runs/{entry.name}", "was left by a merge that was killed")
        elif entry.name not in planned:
            yield Finding(
                "note", f"runs/{entry.name}", "is not in the plan: of an earlier state of the suite?"
            )


def _report(out: Path, store: Store, runs: list[str]) -> Iterator[Finding]:
    page = out / "report" / "index.html"
    try:
        made = page.stat().st_mtime
        newer = sum(_changed_after(store.directory(run_id) / "result.json", made) for run_id in runs)
    except OSError:
        return
    if newer:
        yield Finding(
            "note", "report", f"{newer} results are newer than it; `sharpbench report` makes it again"
        )


def _changed_after(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime > moment
    except OSError:
        return False
