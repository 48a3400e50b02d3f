"""The files of a run as ``result.json`` records them: size and SHA-256, so that damage is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Not part of the result: the record itself, and what comes and goes.
UNRECORDED = ("result.json", "checkpoint.pt", "output.log", "error.log")


def inventory(directory: Path) -> dict[str, dict[str, Any]]:
    """Name → ``{"bytes": …, "sha256": …}`` for every file of a run; hidden files are not part of it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.txt").write_bytes(b"abc")
    ...     inventory(Path(folder))["a.txt"]["bytes"]
    3
    """
    files = sorted(entry for entry in directory.iterdir() if entry.is_file() and not _unrecorded(entry.name))
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}


def sealed(result: Mapping[str, Any]) -> dict[str, Any]:
    """``result`` with the SHA-256 of its own content under ``"sha256"``, by which a flipped digit shows.

    >>> whole = sealed({"files": {}, "steps": 3})
    >>> seal_is_broken(whole), seal_is_broken(whole | {"steps": 4})
    (False, True)
    """
    return {**result, "sha256": _content_digest(result)}


def seal_is_broken(result: Mapping[str, Any]) -> bool:
    """Whether a result that records its files is not what was written."""
    if "files" not in result and "sha256" not in result:
        return False
    return bool(result.get("sha256") != _content_digest(result))


def _content_digest(result: Mapping[str, Any]) -> str:
    content = {key: value for key, value in result.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mismatch(directory: Path, result: Mapping[str, Any], contents_up_to: float = 0) -> str | None:
    """The first way in which the files differ from what ``result`` (of ``result.json``) records.

    Args:
        directory: of the run.
        result: the content of its ``result.json``; without ``"files"`` there is nothing to compare with.
        contents_up_to: compare the contents of files of at most so many bytes, not their sizes alone.

    Returns:
        one clause such as ``"history.parquet has 12 bytes, not 4123"``, or None.
    """
    if seal_is_broken(result):
        return "result.json is not what was written (another SHA-256)"
    recorded = result.get("files")
    if recorded is None:
        return None
    if not isinstance(recorded, dict):
        return "result.json has no list of files"
    for name, entry in recorded.items():
        if not isinstance(entry, dict) or not _plain(name):
            return f"result.json records a file {name!r} that can't be one of a run"
        path = directory / name
        try:
            status = path.lstat()
        except (OSError, ValueError):
            return f"{name} is missing"
        if not path.is_file() or path.is_symlink():
            return f"{name} is not a file"
        if status.st_size != entry.get("bytes"):
            return f"{name} has {status.st_size} bytes, not {entry.get('bytes')}"
        if status.st_size <= contents_up_to:
            try:
                found = sha256(path)
            except OSError as error:
                return f"{name} can't be read ({error.strerror})"
            if found != entry.get("sha256"):
                return f"{name} is not the file that was written (another SHA-256)"
    return None


def _unrecorded(name: str) -> bool:
    return name in UNRECORDED or name.startswith(".")


def _plain(name: str) -> bool:
    """A name that can't lead out of the directory."""
    return (
        bool(name) and "/" not in name and "\\" not in name and "\0" not in name and name not in (".", "..")
    )
