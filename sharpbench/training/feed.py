"""Examples on the training device, and the mini-batches made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Prepare = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and labels on one device; a mini-batch is gathered, augmented and normalised there.

    Attributes:
        inputs: what is stored: uint8 images (n, c, h, w), floats (n, ...), or int64 tokens (n, length).
        labels: int64 (n,), or (n, length) for tokens.
        prepare: stored inputs → what the network takes (normalisation); None: they are that already.
        augment: stored inputs → stored inputs at random, before ``prepare``; for training only.
        late_augment: after ``prepare`` (cutout fills with the mean colour, which is 0 there).
        channels_last: lay images out as torch's ``channels_last``.

    Example:
        >>> images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
        >>> examples = Examples(images, torch.tensor([0, 1, 0, 1]), prepare=lambda x: x.float() / 2)
        >>> x, y = examples.batch(torch.tensor([3, 1]))
        >>> x.flatten().tolist(), y.tolist()
        ([1.5, 0.5], [1, 1])
    """

    inputs: Tensor
    labels: Tensor
    prepare: Prepare | None = None
    augment: Prepare | None = None
    late_augment: Prepare | None = None
    channels_last: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The examples at ``rows``, augmented: made once a step, so every pass of it sees the same."""
        # index_select is the fast path of inputs[rows].
        x = self.inputs.index_select(0, rows)
        if self.augment is not None:
            x = self.augment(x)
        x = self._ready(x)
        if self.late_augment is not None:
            x = self.late_augment(x)
        return x, self.labels.index_select(0, rows)

    def plain(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The examples of a range, as they are: for evaluation."""
        return self._ready(self.inputs[start:stop]), self.labels[start:stop]

    def ready(self) -> tuple[Tensor, Tensor]:
        """All of them, as they are."""
        return self.plain(0, len(self))

    def subset(self, rows: Tensor) -> Examples:
        """The examples at ``rows``, never augmented."""
        return Examples(
            self.inputs[rows], self.labels[rows], prepare=self.prepare, channels_last=self.channels_last
        )

    def _ready(self, x: Tensor) -> Tensor:
        if self.prepare is not None:
            x = self.prepare(x)
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x
