"""VGG-16 with BatchNorm, for small images (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .initialise import he_fan_out
from .shapes import ImageShape

# Configuration D, table 1: convolutions of each stage, as multiples of the first width; a pool after each.
STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


def vgg16_bn(shape: ImageShape, classes: int, width: int = 64) -> nn.Module:
    """VGG-16 (configuration D) with BatchNorm and one linear layer behind the convolutions.

    Images (n, channels, height, width) → logits (n, classes); .31 G multiply-adds at 32x32. Thirteen 3x3
    convolutions with bias, each followed by BatchNorm and ReLU. Convolutions are drawn by He's rule with
    fan-out, the readout from N(0, .01²).

    Deviations: BatchNorm is younger than the paper; the three linear layers of 4096, 4096 and 1000 with their
    dropout are one, as in every CIFAR form. Pools round up, so that images smaller than 32x32 keep one pixel;
    at 32x32 that changes nothing.

    Source: Simonyan and Zisserman 2015 (arXiv 1409.1556), table 1.

    >>> sum(p.numel() for p in vgg16_bn((3, 32, 32), 10).parameters())
    14728266
    """
    layers: list[nn.Module] = []
    fan_in = shape[0]
    for stage in STAGES:
        for multiple in stage:
            layers += [
                nn.Conv2d(fan_in, multiple * width, 3, padding=1),
                nn.BatchNorm2d(multiple * width),
                nn.ReLU(inplace=True),
            ]
            fan_in = multiple * width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    readout = nn.Linear(fan_in, classes)
    network = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=readout,
        )
    )
    he_fan_out(network)
    nn.init.normal_(readout.weight, std=0.01)
    nn.init.zeros_(readout.bias)
    return network


def vgg_narrow(shape: ImageShape, classes: int) -> nn.Module:
    """VGG-16 with BatchNorm and an eighth of the width: 8, 16, 32, 64, 64.

    >>> sum(p.numel() for p in vgg_narrow((3, 32, 32), 10).parameters())
    232274
    """
    return vgg16_bn(shape, classes, width=8)
