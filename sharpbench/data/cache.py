"""Parsed arrays on disk, memory-mapped: parsed once, shared by all processes, rebuilt when not whole.

A cache folder holds ``NAME.npy`` for each array and ``cache.json``, written last: the format's version,
what the arrays were made from (``origin``), and each array's type, shape, bytes and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import atomic_path, write_json
from .places import writing

CACHE_VERSION = 1
MANIFEST = "cache.json"

Array = NDArray[Any]


def cached(
    folder: Path, origin: Mapping[str, Any], size: int, build: Callable[[], Mapping[str, Array]]
) -> dict[str, Tensor]:
    """The arrays in ``folder``, built first if they aren't there, are stale, or are not whole.

    Of several processes one builds; the others wait for it.

    Args:
        folder: of this data set.
        origin: what the arrays are made from; a cache of another origin is rebuilt. Must be JSON.
        size: bytes it will need, for messages.
        build: makes the arrays.

    Raises:
        InvalidInput: the folder can't be written; whatever ``build`` raises.
    """
    from filelock import FileLock

    if (found := open_cache(folder, origin)) is None:
        with writing(folder, size):
            lock = FileLock(folder / ".lock")
            lock.acquire()
        try:
            if (found := open_cache(folder, origin)) is None:
                arrays = build()
                with writing(folder, size):
                    write_cache(folder, origin, arrays)
                found = open_cache(folder, origin)
        finally:
            lock.release()
    assert found is not None, "a cache that was just written is whole"
    return found


def write_cache(folder: Path, origin: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Each array under its name, then the manifest, each of them atomically."""
    (folder / MANIFEST).unlink(missing_ok=True)
    entries = {}
    for name, array in arrays.items():
        whole = np.ascontiguousarray(array)
        with atomic_path(folder / f"{name}.npy") as temporary:
            np.save(temporary, whole, allow_pickle=False)
            entries[name] = describe(temporary, whole)
    write_json(folder / MANIFEST, {"version": CACHE_VERSION, "origin": dict(origin), "arrays": entries})


def describe(path: Path, array: Array) -> dict[str, Any]:
    """The manifest's entry of an array that is stored at ``path``."""
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }


def file_sha256(path: Path) -> str:
    """Of the file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None if there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("version") == CACHE_VERSION else None


def open_cache(folder: Path, origin: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The arrays, memory-mapped, or None if the cache is absent, stale or not whole."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("origin") != dict(origin):
        return None
    found = {}
    try:
        for name, entry in manifest["arrays"].items():
            path = folder / f"{name}.npy"
            if path.stat().st_size != entry["bytes"]:
                return None
            # Mode "c": pages are shared until somebody writes to them, and then the change stays in that
            # process. torch has no read-only tensors, so mode "r" would end in a crash at such a write.
            array = np.load(path, mmap_mode="c", allow_pickle=False)
            if str(array.dtype) != entry["dtype"] or list(array.shape) != entry["shape"]:
                return None
            found[name] = torch.from_numpy(array)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def damaged(folder: Path) -> list[str]:
    """Arrays whose SHA-256 is not the manifest's."""
    manifest = read_manifest(folder)
    entries: dict[str, Any] = {} if manifest is None else manifest["arrays"]
    return [name for name, entry in entries.items() if file_sha256(folder / f"{name}.npy") != entry["sha256"]]
