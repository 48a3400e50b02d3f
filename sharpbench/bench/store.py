"""The output directory: the plan, one directory a run, and what has ended so far (docs/formats.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..errors import InvalidInput
from ..files import write_text
from ..spec import SCHEMA_VERSION
from .plan import Plan, parse_plan

State = Literal["done", "diverged", "failed", "running", "missing"]
# Kept inside the run directory when everything else is cleaned: removing a lock file that another
# process waits for would let two processes hold "the" lock.
LOCK = ".lock"
RESULT = "result.json"
CHECKPOINT = "checkpoint.pt"
ERROR_LOG = "error.log"


@dataclass(frozen=True)
class Store:
    """An output directory. Opening it (:func:`open_store`) checks and writes the plan."""

    out: Path

    def directory(self, run_id: str) -> Path:
        """Where a run writes, and nowhere else."""
        return self.out / "runs" / run_id

    def result(self, run_id: str) -> dict[str, Any] | None:
        """The run's ``result.json``; None when it is missing, truncated, damaged or of another run."""
        return read_result(self.directory(run_id), run_id)

    def state(self, run_id: str) -> tuple[State, str]:
        """The state of a run, and why (the last line of the log, or the reason of a divergence)."""
        directory = self.directory(run_id)
        result = read_result(directory, run_id)
        if result is not None:
            status: State = result["status"]
            return status, str(result.get("reason") or "")
        if (directory / LOCK).exists() and is_locked(directory):
            return "running", ""
        log = directory / ERROR_LOG
        return ("failed", last_line(log)) if log.exists() else ("missing", "")


def open_store(out: Path, plan: Plan) -> Store:
    """The store of a plan, with ``plan.json`` written; finished runs of an earlier plan are kept.

    Raises:
        InvalidInput: ``out`` belongs to another suite, holds something else, or can't be written.
    """
    path = out / "plan.json"
    if path.exists():
        earlier = read_plan(out)
        if earlier.suite != plan.suite:
            raise InvalidInput(
                f"{out} holds the runs of suite {earlier.suite!r}, not of {plan.suite!r}; "
                f"choose another --out, or run {earlier.suite!r} again"
            )
    elif out.is_dir() and any(not _ours(entry) for entry in out.iterdir()):
        raise InvalidInput(
            f"{out} has files but no plan.json, so it isn't an output directory; choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, plan.dump())
    except OSError as error:
        raise InvalidInput(f"{out} can't be written ({error.strerror}); choose another --out") from None
    return Store(out)


def read_plan(out: Path) -> Plan:
    """The plan of an output directory.

    Raises:
        InvalidInput: there is none, or it is damaged.
    """
    path = out / "plan.json"
    try:
        text = path.read_bytes()
    except OSError:
        raise InvalidInput(
            f"{out} has no readable plan.json; name the output directory of `sharpbench run` (--out)"
        ) from None
    return parse_plan(text, str(path))


def read_result(directory: Path, run_id: str) -> dict[str, Any] | None:
    """``result.json`` if it is whole and belongs to this run, else None."""
    try:
        result = json.loads((directory / RESULT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(result, dict):
        return None
    right = result.get("run_id") == run_id and result.get("schema_version") == SCHEMA_VERSION
    return result if right and result.get("status") in ("done", "diverged") else None


@contextmanager
def claimed(directory: Path) -> Iterator[bool]:
    """Hold a run directory: yields False when another process holds it.

    The operating system drops the claim of a process that dies, so a killed run is never stuck.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_locked(directory: Path) -> bool:
    """Whether some process is at work in this run directory."""
    with claimed(directory) as mine:
        return not mine


def clean(directory: Path) -> None:
    """Remove what a killed or failed attempt left, but for its checkpoint; claim the directory before."""
    for entry in directory.iterdir():
        if entry.name in (LOCK, CHECKPOINT):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def last_line(path: Path) -> str:
    r"""The last line of a log that says something.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Path(folder) / "error.log"
    ...     _ = log.write_text("Traceback:\nValueError: no\n\n")
    ...     last_line(log)
    'ValueError: no'
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _ours(entry: Path) -> bool:
    # A launcher killed before its first plan was in place leaves at most these.
    return entry.name in ("runs", "report") or entry.name.startswith(".plan.")
