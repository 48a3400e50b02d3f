"""The output directory: the plan, one directory a run, and what has ended so far (docs/formats.md)."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InvalidInput
from ..files import read_bytes, write_text
from ..spec import SCHEMA_VERSION
from .claim import LOCK as LOCK
from .claim import OWNER as OWNER
from .claim import claimed as claimed
from .claim import is_claimed
from .inventory import mismatch
from .plan import Plan, parse_plan

State = Literal["done", "diverged", "failed", "running", "damaged", "missing"]
RESULT = "result.json"
CHECKPOINT = "checkpoint.pt"
ERROR_LOG = "error.log"
EVERYTHING = float("inf")


@dataclass(frozen=True)
class Store:
    """An output directory. Opening it (:func:`open_store`) checks and writes the plan."""

    out: Path

    def directory(self, run_id: str) -> Path:
        """Where a run writes, and nowhere else."""
        return self.out / "runs" / run_id

    def result(self, run_id: str) -> dict[str, Any] | None:
        """The run's ``result.json``; None unless the run has ended and its files are there, whole."""
        return read_result(self.directory(run_id), run_id)

    def state(self, run_id: str) -> tuple[State, str]:
        """The state of a run, and why (the last line of the log, the reason of a divergence, the damage)."""
        directory = self.directory(run_id)
        result, damage = examine(directory, run_id)
        if result is not None:
            status: State = result["status"]
            return status, str(result.get("reason") or "")
        if is_claimed(directory):
            return "running", ""
        if damage:
            return "damaged", damage
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
        # Written although it may be there already: a place that can't be written must show now.
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
        text = read_bytes(path)
    except OSError:
        raise InvalidInput(
            f"{out} has no readable plan.json; name the output directory of `sharpbench run` (--out)"
        ) from None
    return parse_plan(text, str(path))


def read_result(directory: Path, run_id: str) -> dict[str, Any] | None:
    """``result.json`` if it is whole, belongs to this run, and the files it records have their sizes."""
    return examine(directory, run_id)[0]


def examine(directory: Path, run_id: str, contents_up_to: float = 0) -> tuple[dict[str, Any] | None, str]:
    """The result of a run that has ended, or what is wrong with it; ``(None, "")``: it hasn't ended.

    Args:
        directory: of the run.
        run_id: whose result it must be.
        contents_up_to: compare the contents of files of at most so many bytes with what the result
            records, not their sizes alone; ``EVERYTHING`` for all.
    """
    path = directory / RESULT
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, "" if isinstance(
            error, NotADirectoryError
        ) else f"{RESULT} can't be read ({error.strerror})"
    try:
        result = json.loads(content)
    except (ValueError, RecursionError):
        return None, f"{RESULT} is not JSON: cut off, or overwritten"
    if not isinstance(result, dict):
        return None, f"{RESULT} is not an object"
    if result.get("run_id") != run_id:
        return None, f"{RESULT} is that of another run"
    if result.get("schema_version") != SCHEMA_VERSION:
        return None, f"{RESULT} has another schema version than {SCHEMA_VERSION}"
    if result.get("status") not in ("done", "diverged"):
        return None, f"{RESULT} has an unknown status"
    wrong = mismatch(directory, result, contents_up_to)
    return (None, wrong) if wrong else (result, "")


def clean(directory: Path) -> None:
    """Remove what a killed or failed attempt left, but for its checkpoint; claim the directory before."""
    for entry in directory.iterdir():
        if entry.name not in (LOCK, OWNER, CHECKPOINT):
            remove(entry)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def last_line(path: Path) -> str:
    r"""The last line of a log that says something.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = Path(folder) / "error.log"
    ...     _ = log.write_text("Traceback:\nValueError: no\n\n")
    ...     last_line(log)
    'ValueError: no'
    """
    lines = last_lines(path, 1)
    return lines[0].strip() if lines else ""


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log that say something, at most ``count``, control characters replaced."""
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            # A log of gigabytes isn't read for its end.
            file.seek(max(0, path.stat().st_size - 4000 * count))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    said = [line.rstrip() for line in text.split("\n") if line.strip()]
    shown = ("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in said)
    return list(shown)[-count:]


def _ours(entry: Path) -> bool:
    # A launcher killed before its first plan was in place leaves at most these.
    return entry.name in ("runs", "report") or entry.name.startswith(".plan.")
