"""What a data set is: two splits of uint8 images and integer labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Split:
    """``images`` uint8 (n, channels, height, width), ``labels`` int64 (n,)."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise InvalidInput(
                f"images must be uint8 (n, c, h, w), but got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise InvalidInput(
                f"labels must be int64 ({len(self.images)},), but got {self.labels.dtype} "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split, and how pixels become numbers: ``(pixel / scale - mean) / std``."""

    name: str
    train: Split
    test: Split
    classes: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (n, c, h, w) → float32 of the same shape."""
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return (images.float() / self.scale - mean) / std
