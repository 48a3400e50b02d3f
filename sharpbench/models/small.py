"""Networks for small images."""

from __future__ import annotations

import math

from torch import nn

from .shapes import ImageShape


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
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * ((height + 1) // 4) * ((pixels + 1) // 4), classes),
    )
