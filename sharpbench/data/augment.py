"""Random crops, flips and cut-outs of a whole mini-batch at once, on the device that holds it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import must_be, unknown_name

PADDING = 4
CUTOUT = 16


class Augmentation:
    """Crop, flip and cut-out, each example at random by itself; no loop over examples, no host wait.

    ``"crop"``: a window of the image's own size out of the image with ``padding`` zeros around it, each of
    the (2 padding + 1)^2 places equally likely. ``"flip"``: left to right, with probability 1/2.
    ``"cutout"``: zeros in a square of side ``size`` whose centre is any pixel, clipped at the border
    (DeVries and Taylor, arXiv 1708.04552). Always in this order. Apply crop and flip to the stored pixels,
    and cut-out after normalisation, where zero is the mean colour.

    Args:
        names: which of them.
        generator: the only source of randomness, on the device of the batches.
        padding: pixels around the image.
        size: side of the cut-out square, in pixels.

    Raises:
        InvalidInput: an unknown name; a padding or size below 1.

    Example:
        >>> crop = Augmentation(["crop"], torch.Generator().manual_seed(0), padding=1)
        >>> crop(torch.arange(4.0).view(1, 1, 2, 2) + 1)
        tensor([[[[0., 3.],
                  [0., 0.]]]])
    """

    def __init__(
        self, names: Sequence[str], generator: torch.Generator, *, padding: int = PADDING, size: int = CUTOUT
    ) -> None:
        for name in names:
            if name not in ("crop", "flip", "cutout"):
                raise unknown_name("augmentation", name, ("crop", "flip", "cutout"))
        for what, value in (("padding", padding), ("size", size)):
            if value < 1:
                raise must_be(what, ">= 1", value)
        self.names, self.generator = frozenset(names), generator
        self.padding, self.size = padding, size

    def __call__(self, images: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape, dtype and device."""
        if "crop" in self.names:
            images = self.crop(images)
        if "flip" in self.names:
            images = self.flip(images)
        if "cutout" in self.names:
            images = self.cutout(images)
        return images

    def crop(self, images: Tensor) -> Tensor:
        """A random window of each padded image."""
        count, channels, height, width = images.shape
        padded = F.pad(images, (self.padding,) * 4)
        rows, columns = height + 2 * self.padding, width + 2 * self.padding
        down = self._integers(2 * self.padding + 1, count).view(-1, 1, 1)
        right = self._integers(2 * self.padding + 1, count).view(-1, 1, 1)
        # Every row of every window is `width` neighbours in memory, so one selection of such pieces does it:
        # a hundred times as fast on a CPU as indexing each image with its own slices.
        places = torch.arange(count * channels, device=images.device).view(count, channels, 1)
        starts = (places * rows + down + torch.arange(height, device=images.device)) * columns + right
        pieces = padded.reshape(-1).unfold(0, width, 1)
        return pieces.index_select(0, starts.flatten()).view(images.shape)

    def flip(self, images: Tensor) -> Tensor:
        """Half of the images mirrored."""
        count = len(images)
        both = torch.cat((images, images.flip(3)))
        which = torch.arange(count, device=images.device) + count * self._integers(2, count)
        return both.index_select(0, which)

    def cutout(self, images: Tensor) -> Tensor:
        """A square of zeros in each image."""
        count, _, height, width = images.shape
        inside = []
        for length in (height, width):
            first = self._integers(length, count).view(-1, 1) - self.size // 2
            pixels = torch.arange(length, device=images.device)
            inside.append((pixels >= first) & (pixels < first + self.size))
        hole = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
        return images * (~hole).unsqueeze(1).to(images.dtype)

    def _integers(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.generator, device=self.generator.device)
