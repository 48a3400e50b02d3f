"""SVHN's cropped digits: MATLAB files with X (height, width, channel, image) and y (image, 1).

The label of the digit 0 is 10 there; it becomes 0.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInput
from .archive import MEND

if TYPE_CHECKING:
    from .published import Arrays, Published


def parse_svhn(paths: Mapping[str, Path], published: Published) -> Arrays:
    """Images and labels of both splits."""
    arrays: dict[str, NDArray[np.uint8] | NDArray[np.int64]] = {}
    for split, count in (("train", published.train), ("test", published.test)):
        images, labels = read_mat(paths[f"{split}_32x32.mat"], published.shape, count)
        arrays[f"{split}_inputs"], arrays[f"{split}_labels"] = images, labels
    return arrays


def read_mat(
    path: Path, shape: tuple[int, int, int], count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 (count, channels, height, width) and int64 (count,).

    Raises:
        InvalidInput: not a MATLAB 5 file, or without X and y of these shapes.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    broken = (MatReadError, ValueError, TypeError, KeyError, NotImplementedError, OSError, EOFError)
    try:
        content = loadmat(path, variable_names=["X", "y"])
    except (*broken, zlib.error, struct.error) as error:
        raise InvalidInput(f"{path} is not a whole MATLAB file ({error}); {MEND}") from error
    missing = sorted({"X", "y"} - set(content))
    if missing:
        raise InvalidInput(f"{path} lacks {', '.join(missing)}; is it another file? Otherwise {MEND}")
    channels, height, width = shape
    pixels, labels = content["X"], content["y"]
    expected = (height, width, channels, count)
    if pixels.shape != expected or pixels.dtype != np.uint8 or labels.shape != (count, 1):
        raise InvalidInput(
            f"{path} must hold uint8 X {expected} and y {(count, 1)}, but has {pixels.dtype} "
            f"X {pixels.shape} and y {labels.shape}; {MEND}"
        )
    digits = labels.reshape(-1).astype(np.int64)
    if (digits == 0).any():
        raise InvalidInput(f"{path}: labels must be 1 to 10, but some are 0; {MEND}")
    digits[digits == 10] = 0
    return pixels.transpose(3, 2, 0, 1), digits
