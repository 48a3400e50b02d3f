"""DenseNet-BC for small images (Huang et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .initialise import he_fan_out
from .shapes import ImageShape


class DenseLayer(nn.Module):
    """Adds ``growth`` channels: ``y = [x, conv3x3(ReLU(BN(conv1x1(ReLU(BN(x))))))]``.

    The 1x1 convolution is the bottleneck of DenseNet-B, to 4 ``growth`` channels.
    """

    def __init__(self, fan_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.activation(self.norm1(x)))
        return torch.cat([x, self.conv2(self.activation(self.norm2(out)))], 1)


def transition(fan_in: int) -> nn.Module:
    """Half the channels and half the side: BN, ReLU, 1x1 convolution, 2x2 mean-pooling (theta = .5)."""
    return nn.Sequential(
        nn.BatchNorm2d(fan_in),
        nn.ReLU(inplace=True),
        nn.Conv2d(fan_in, fan_in // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


def densenet(shape: ImageShape, classes: int, growth: int, blocks: tuple[int, ...]) -> nn.Module:
    """DenseNet-BC: dense blocks of so many layers, a transition between them, then BN, ReLU, mean, readout.

    Images (n, channels, height, width) → logits (n, classes). The stem is a 3x3 convolution to 2 ``growth``
    channels, without the 7x7 and pooling of the ImageNet form: the network that the SAM papers train on CIFAR
    under the name DenseNet-121. (The paper's own CIFAR networks have three equal blocks; its table 1 has the
    four of DenseNet-121.) Convolutions are drawn by He's rule with fan-out, the readout's bias is 0.

    Source: Huang et al. 2017 (arXiv 1608.06993), table 1 and sections 3-4.
    """
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)]
    for number, depth in enumerate(blocks):
        if number:
            layers.append(transition(channels))
            channels //= 2
        layers.append(nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(depth))))
        channels += depth * growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    readout = nn.Linear(channels, classes)
    network = nn.Sequential(*layers, readout)
    he_fan_out(network)
    nn.init.zeros_(readout.bias)
    return network


def densenet121(shape: ImageShape, classes: int) -> nn.Module:
    """DenseNet-121, growth 32; .9 G multiply-adds at 32x32. See :func:`densenet`.

    >>> sum(p.numel() for p in densenet121((3, 32, 32), 10).parameters())
    6956298
    """
    return densenet(shape, classes, growth=32, blocks=(6, 12, 24, 16))


def densenet_narrow(shape: ImageShape, classes: int) -> nn.Module:
    """DenseNet-BC of growth 12 with blocks of 2, 4, 8 and 4 layers.

    >>> sum(p.numel() for p in densenet_narrow((3, 32, 32), 10).parameters())
    169426
    """
    return densenet(shape, classes, growth=12, blocks=(2, 4, 8, 4))
