"""The memory-mapped cache: built once, shared, noticed when it is stale or not whole."""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharpbench.data.cache import MANIFEST, cached, damaged, open_cache
from sharpbench.errors import InvalidInput

ORIGIN = {"a.tar.gz": "sha256:00"}


class Builder:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Mapping[str, Any]:
        self.times += 1
        return {"inputs": np.arange(20_000, dtype=np.uint8), "labels": np.arange(3)}


def test_arrays_are_built_once_and_come_back(tmp_path: Path) -> None:
    build = Builder()
    first = cached(tmp_path, ORIGIN, 100, build)
    second = cached(tmp_path, ORIGIN, 100, build)
    assert build.times == 1
    for found in (first, second):
        assert torch.equal(found["inputs"], torch.arange(20_000).to(torch.uint8))
        assert found["labels"].dtype == torch.int64
    first["labels"][0] = 99  # stays in this process's map
    again = open_cache(tmp_path, ORIGIN)
    assert again is not None
    assert again["labels"][0] == 0


def test_many_at_once_build_once(tmp_path: Path) -> None:
    build = Builder()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached(tmp_path, ORIGIN, 100, build), range(8)))
    assert build.times == 1
    assert all(torch.equal(one["labels"], torch.arange(3)) for one in found)


def truncate(folder: Path) -> None:
    path = folder / "inputs.npy"
    path.write_bytes(path.read_bytes()[:-1])


def remove(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def other_version(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"version": -1}))


def no_json(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def other_header(folder: Path) -> None:
    path = folder / "labels.npy"
    path.write_bytes(path.read_bytes().replace(b"<i8", b"<f8"))


@pytest.mark.parametrize("harm", [truncate, remove, other_version, no_json, other_header])
def test_what_is_not_whole_is_built_again(harm: Any, tmp_path: Path) -> None:
    build = Builder()
    cached(tmp_path, ORIGIN, 100, build)
    harm(tmp_path)
    assert open_cache(tmp_path, ORIGIN) is None
    assert torch.equal(cached(tmp_path, ORIGIN, 100, build)["labels"], torch.arange(3))
    assert build.times == 2


def test_another_origin_is_stale(tmp_path: Path) -> None:
    build = Builder()
    cached(tmp_path, ORIGIN, 100, build)
    cached(tmp_path, {"a.tar.gz": "sha256:01"}, 100, build)
    assert build.times == 2


def test_changed_bytes_are_found_by_their_digest(tmp_path: Path) -> None:
    cached(tmp_path, ORIGIN, 100, Builder())
    assert damaged(tmp_path) == []
    content = bytearray((tmp_path / "inputs.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "inputs.npy").write_bytes(content)
    assert damaged(tmp_path) == ["inputs"]


def test_a_full_disk_and_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="can't write to .*; set SHARPBENCH_DATA to a folder that"):
        cached(tmp_path / "file" / "below", ORIGIN, 20_000_000, Builder())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InvalidInput, match="has 20 MB free"):
            cached(tmp_path / "full", ORIGIN, 20_000_000, Builder())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "full").iterdir()] == [".lock"]
    cached(tmp_path / "full", ORIGIN, 20_000_000, Builder())
