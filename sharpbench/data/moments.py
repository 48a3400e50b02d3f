"""Mean and standard deviation of pixels, exactly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Images counted at a time: a memory-mapped split may be larger than memory.
ROWS = 4096


def pixel_moments(inputs: Tensor, scale: float = 255.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, the mean and the standard deviation (over all pixels, no correction) of inputs / scale.

    From counts of the 256 values, so the sums are of whole numbers and nothing is rounded before the end.

    Args:
        inputs: uint8 (n, c, h, w).
        scale: what pixels are divided by.

    >>> pixel_moments(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    ((0.5,), (0.5,))
    """
    channels = inputs.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for part in inputs.split(ROWS):
        for channel in range(channels):
            counts[channel] += torch.bincount(part[:, channel].flatten(), minlength=256).numpy()
    values = np.arange(256) / scale
    total = counts.sum(1)
    mean = counts @ values / total
    spread = (values[None] - mean[:, None]) ** 2
    std = np.sqrt((counts * spread).sum(1) / total)
    return tuple(mean.tolist()), tuple(std.tolist())
