"""CIFAR-10 and CIFAR-100 from their binary archives (the pickled ones are never read: unpickling runs code).

A row is the label (CIFAR-100: coarse label, then fine label), then 3 x 32 x 32 bytes, red plane first:
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .archive import read_tar

if TYPE_CHECKING:
    from .published import Arrays, Published

BATCHES = 5
FOLDER_10 = "cifar-10-batches-bin"
FOLDER_100 = "cifar-100-binary"


def parse_cifar10(paths: Mapping[str, Path], published: Published) -> Arrays:
    """Five training batches and a test batch: labels of one byte."""
    batches = [f"{FOLDER_10}/data_batch_{number}.bin" for number in range(1, BATCHES + 1)]
    return _parse(paths, published, batches, published.train // BATCHES, f"{FOLDER_10}/test_batch.bin", 1)


def parse_cifar100(paths: Mapping[str, Path], published: Published) -> Arrays:
    """One file for each split; of the two labels, the fine one."""
    return _parse(paths, published, [f"{FOLDER_100}/train.bin"], published.train, f"{FOLDER_100}/test.bin", 2)


def _parse(
    paths: Mapping[str, Path],
    published: Published,
    train: list[str],
    rows: int,
    test: str,
    label_bytes: int,
) -> Arrays:
    width = label_bytes + int(np.prod(published.shape))
    sizes = {name: rows * width for name in train} | {test: published.test * width}
    (path,) = paths.values()
    content = read_tar(path, sizes)

    def table(*names: str) -> NDArray[np.uint8]:
        return np.frombuffer(b"".join(content[name] for name in names), np.uint8).reshape(-1, width)

    arrays: dict[str, NDArray[np.uint8] | NDArray[np.int64]] = {}
    for split, found in (("train", table(*train)), ("test", table(test))):
        arrays[f"{split}_inputs"] = found[:, label_bytes:].reshape(-1, *published.shape)
        arrays[f"{split}_labels"] = found[:, label_bytes - 1].astype(np.int64)
    return arrays
