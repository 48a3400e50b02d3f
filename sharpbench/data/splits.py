"""What a data set is: two splits of uint8 images or int64 tokens, and their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InvalidInput

Kind = Literal["images", "tokens"]


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and labels of one split.

    Attributes:
        inputs: uint8 (n, channels, height, width) for images, int64 (n, length) for tokens.
        labels: int64 (n,) for images; for tokens int64 (n, length), the token that follows each.

    Raises:
        InvalidInput: another type or shape.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images = self.inputs.dtype == torch.uint8 and self.inputs.ndim == 4
        tokens = self.inputs.dtype == torch.int64 and self.inputs.ndim == 2
        if not images and not tokens:
            raise InvalidInput(
                "inputs must be images, uint8 (n, c, h, w), or tokens, int64 (n, length), but got "
                f"{self.inputs.dtype} {tuple(self.inputs.shape)}"
            )
        expected = self.inputs.shape[:1] if images else self.inputs.shape
        if self.labels.dtype != torch.int64 or self.labels.shape != expected:
            raise InvalidInput(
                f"labels must be int64 {tuple(expected)}, but got {self.labels.dtype} "
                f"{tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> Kind:
        return "images" if self.inputs.ndim == 4 else "tokens"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split, and how what is stored becomes what a network takes.

    Pixels become ``(pixel / scale - mean) / std``, channel by channel; tokens stay as they are.

    Attributes:
        name: what ``load`` calls it.
        train: what networks are trained on; a validation split is taken from it.
        test: for the final figures.
        classes: number of classes; for tokens, the size of the vocabulary.
        scale: what pixels are divided by.
        mean: per channel, of the training split's scaled pixels; empty for tokens.
        std: the same, over all pixels (no correction for the mean).

    Example:
        >>> words = Split(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 2, 0]]))
        >>> data = Dataset("abc", words, words, classes=3)
        >>> data.kind, data.shape
        ('tokens', (3,))
    """

    name: str
    train: Split
    test: Split
    classes: int
    scale: float = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def kind(self) -> Kind:
        return self.train.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: (channels, height, width), or (length,) for tokens."""
        return tuple(self.train.inputs.shape[1:])

    def normalise(self, inputs: Tensor) -> Tensor:
        """uint8 (n, c, h, w) → float32 of the same shape; tokens are returned unchanged."""
        if self.kind == "tokens":
            return inputs
        mean = torch.tensor(self.mean, device=inputs.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=inputs.device).view(1, -1, 1, 1)
        return (inputs.float() / self.scale - mean) / std
