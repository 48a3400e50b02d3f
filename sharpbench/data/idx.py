"""MNIST and Fashion-MNIST: gzipped IDX files of unsigned bytes.

An IDX file starts with 0, 0, the type (8: unsigned byte) and the number of dimensions, then each dimension
as a big-endian 32-bit number, then the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInput
from .archive import MEND, read_gzip

if TYPE_CHECKING:
    from .published import Arrays, Published


def parse_idx(paths: Mapping[str, Path], published: Published) -> Arrays:
    """Images and labels of both splits, from the four files of MNIST's names."""
    channels, height, width = published.shape
    arrays: dict[str, NDArray[np.uint8] | NDArray[np.int64]] = {}
    for split, prefix, count in (("train", "train", published.train), ("test", "t10k", published.test)):
        images = read_idx(paths[f"{prefix}-images-idx3-ubyte.gz"], (count, height, width))
        labels = read_idx(paths[f"{prefix}-labels-idx1-ubyte.gz"], (count,))
        arrays[f"{split}_inputs"] = images.reshape(count, channels, height, width)
        arrays[f"{split}_labels"] = labels.astype(np.int64)
    return arrays


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, which must have this shape.

    Raises:
        InvalidInput: another header, another size, or not a whole gzip file.
    """
    header = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
    content = read_gzip(path, len(header) + int(np.prod(shape)))
    if not content.startswith(header):
        raise InvalidInput(
            f"{path} must be IDX of unsigned bytes of shape {shape}, but starts with "
            f"{content[: len(header)].hex()}; {MEND}"
        )
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
