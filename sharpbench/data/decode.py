"""Compressed pictures → one memory-mapped array: in parallel processes, and going on where it was stopped."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from joblib import Parallel, delayed
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import InvalidInput
from ..files import atomic_path, write_json
from .cache import CACHE_VERSION, MANIFEST, describe, open_cache
from .places import writing

# A chunk → (name, content) of each of its pictures, in order; runs in a worker, so it must pickle.
Read = Callable[[Any], Iterator[tuple[str, bytes]]]


@dataclass(frozen=True)
class Pictures:
    """A split before it is decoded.

    Attributes:
        labels: int64 (n,).
        chunks: (number of pictures, what ``read`` takes) one after the other, as many pictures as labels.
        read: makes the pictures' bytes of a chunk.
    """

    labels: NDArray[np.int64]
    chunks: Sequence[tuple[int, Any]]
    read: Read


def decoded(
    folder: Path,
    origin: Mapping[str, Any],
    splits: Mapping[str, Pictures],
    shape: tuple[int, int, int],
    *,
    resize: bool,
    workers: int | None = None,
) -> dict[str, Tensor]:
    """``SPLIT_inputs`` uint8 (n, c, h, w) and ``SPLIT_labels`` int64 (n,) of each split, memory-mapped.

    Decoded chunks are written into ``SPLIT_inputs.partial.npy`` and noted beside it; when all are there the
    file gets its name. A process that is killed loses the chunks it was at.

    Args:
        folder: of this data set's cache.
        origin: what the arrays are made from (see ``cache.cached``).
        splits: by name.
        shape: of one example; 1 channel is grey, 3 are red, green, blue.
        resize: bring the short side to the height and cut out the centre; otherwise a picture of another
            size is an error.
        workers: processes; None: as many as there are cores. 1 stays in this process.

    Raises:
        InvalidInput: a picture that can't be read, or is of another size; a disk that can't be written.
    """
    if (found := open_cache(folder, origin)) is not None:
        return found
    size = sum(len(split.labels) for split in splits.values()) * int(np.prod(shape))
    with writing(folder, size):
        lock = FileLock(folder / ".lock")
        lock.acquire()
    try:
        if (found := open_cache(folder, origin)) is None:
            with writing(folder, size):
                _build(folder, origin, splits, shape, resize, workers)
            found = open_cache(folder, origin)
    finally:
        lock.release()
    assert found is not None, "a cache that was just written is whole"
    return found


def picture(content: bytes, shape: tuple[int, int, int], resize: bool) -> NDArray[np.uint8]:
    """Bytes of any format Pillow knows → (c, h, w).

    Raises:
        InvalidInput: of another size, and not to be resized.
    """
    channels, height, width = shape
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("L" if channels == 1 else "RGB")
    if resize:
        scale = max(height / image.height, width / image.width)
        full = max(width, round(image.width * scale)), max(height, round(image.height * scale))
        left, top = (full[0] - width) // 2, (full[1] - height) // 2
        image = image.resize(full, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    elif (image.height, image.width) != (height, width):
        raise InvalidInput(f"is {image.height}x{image.width}, unlike the first one, {height}x{width}")
    pixels = np.asarray(image).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _build(
    folder: Path,
    origin: Mapping[str, Any],
    splits: Mapping[str, Pictures],
    shape: tuple[int, int, int],
    resize: bool,
    workers: int | None,
) -> None:
    for name, split in splits.items():
        _fill(folder / f"{name}_inputs", origin, split, shape, resize, workers)
    (folder / MANIFEST).unlink(missing_ok=True)
    entries = {}
    for name, split in splits.items():
        path = folder / f"{name}_inputs.npy"
        os.replace(path.with_suffix(".partial.npy"), path)
        path.with_suffix(".partial.log").unlink()
        entries[f"{name}_inputs"] = describe(path, np.load(path, mmap_mode="r"))
        with atomic_path(folder / f"{name}_labels.npy") as temporary:
            np.save(temporary, split.labels)
            entries[f"{name}_labels"] = describe(temporary, split.labels)
    write_json(folder / MANIFEST, {"version": CACHE_VERSION, "origin": dict(origin), "arrays": entries})


def _fill(
    stem: Path,
    origin: Mapping[str, Any],
    split: Pictures,
    shape: tuple[int, int, int],
    resize: bool,
    workers: int | None,
) -> None:
    """Decode what the log beside the partial file doesn't name yet."""
    target, log = stem.with_suffix(".partial.npy"), stem.with_suffix(".partial.log")
    identity = hashlib.sha256(json.dumps([origin, shape, len(split.labels)]).encode()).hexdigest()
    done = _noted(log, identity) if target.is_file() else None
    if done is None:
        whole = (len(split.labels), *shape)
        np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=whole).flush()
        log.write_text(identity + "\n", encoding="utf-8")
        done = set()
    starts = np.cumsum([0, *(count for count, _ in split.chunks)])
    left = [number for number in range(len(split.chunks)) if number not in done]
    tasks = (
        delayed(_decode_chunk)(
            target, int(starts[number]), number, split.chunks[number][1], split.read, shape, resize
        )
        for number in left
    )
    # loky's processes need no `if __name__ == "__main__"` in the caller, and die with it.
    pool = Parallel(n_jobs=workers or -1, return_as="generator_unordered")
    with log.open("a", encoding="utf-8") as notes:
        for number in pool(tasks):
            notes.write(f"{number}\n")
            notes.flush()


def _noted(log: Path, identity: str) -> set[int] | None:
    """Chunks that are done, or None if the log belongs to something else."""
    try:
        first, *lines = log.read_text(encoding="utf-8").split("\n")
    except OSError:
        return None
    # What stands behind the last line end was being written when the process died.
    return {int(line) for line in lines[:-1] if line} if first == identity else None


def _decode_chunk(
    target: Path, start: int, number: int, chunk: Any, read: Read, shape: tuple[int, int, int], resize: bool
) -> int:
    rows = []
    for name, content in read(chunk):
        try:
            rows.append(picture(content, shape, resize))
        except InvalidInput as error:
            raise InvalidInput(f"{name} {error}; name a size to bring all to, as in NAME:64") from error
        except Exception as error:
            # Pillow raises OSError, SyntaxError, struct.error and more on bad bytes.
            raise InvalidInput(
                f"{name} is not a picture that can be read ({type(error).__name__}: {error}); replace or "
                "remove it and start again: what is decoded is kept"
            ) from error
    array = np.lib.format.open_memmap(target, mode="r+")
    array[start : start + len(rows)] = np.stack(rows)
    array.flush()
    return number
