"""Networks for small images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .shapes import ImageShape

# Pixels up to which the matrix product of MeanPool is the faster one.
LARGEST_MAP = 256


def mlp(shape: ImageShape, classes: int, widths: tuple[int, ...] = (256, 256)) -> nn.Module:
    """Fully connected ReLU network; (1, 8, 8) images and 10 classes give 64-256-256-10.

    Images (n, channels, height, width) → logits (n, classes); as many multiply-adds as weights. Drawn by
    torch's default, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    >>> sum(p.numel() for p in mlp((1, 8, 8), 10).parameters())
    85002
    """
    sizes = (math.prod(shape), *widths)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


class MeanPool(nn.AvgPool2d):
    """``AvgPool2d(2)``; small maps on a CPU go through a matrix product.

    torch's kernel for NCHW memory is not vectorised: on 64 maps of 32x4x4, forward and backward, it takes
    twice as long as the product (benchmarks/results/allocator.md). In NHWC memory the slow one is backward.

    >>> x = torch.arange(16.0).view(1, 1, 4, 4)
    >>> MeanPool(4, 4)(x).flatten().tolist(), nn.AvgPool2d(2)(x).flatten().tolist()
    ([2.5, 4.5, 10.5, 12.5], [2.5, 4.5, 10.5, 12.5])
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__(2)
        self.height, self.width = height, width
        # (height width, height//2 width//2): a one at each pixel, pooled. No buffer: it is no state.
        pixels = torch.eye(height * width if height * width <= LARGEST_MAP else 0, device="cpu")
        self.means = nn.functional.avg_pool2d(pixels.view(-1, 1, height, width), 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        known = x.ndim == 4 and x.shape[2:] == (self.height, self.width)
        if not (known and len(self.means) and x.device.type == "cpu"):
            return super().forward(x)
        count, channels, height, width = x.shape
        means = self.means.to(x.dtype)
        if x.is_contiguous():
            return (x.reshape(-1, height * width) @ means).view(count, channels, height // 2, width // 2)
        rows = x.permute(0, 2, 3, 1)
        if rows.is_contiguous():
            pooled = means.T @ rows.view(count, height * width, channels)
            return pooled.view(count, height // 2, width // 2, channels).permute(0, 3, 1, 2)
        return super().forward(x)


def small_cnn(shape: ImageShape, classes: int, width: int = 16) -> nn.Module:
    """Two 3x3 convolutions with BatchNorm and ReLU, the first with stride 2; mean-pooling; a linear layer.

    Images (n, channels, height, width) → logits (n, classes). Drawn by torch's default.

    >>> sum(p.numel() for p in small_cnn((1, 8, 8), 10).parameters())
    6138
    """
    channels, height, pixels = shape
    # Stride and mean-pooling instead of max-pooling: on small images it halves the cost of a step, and the
    # network stays as smooth as its ReLUs.
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        MeanPool((height + 1) // 2, (pixels + 1) // 2),
        nn.Flatten(),
        nn.Linear(2 * width * ((height + 1) // 4) * ((pixels + 1) // 4), classes),
    )
