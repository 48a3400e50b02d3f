"""ResNet-18 for small images (He et al. 2016, in the CIFAR form of its public re-implementations)."""

from __future__ import annotations

from torch import Tensor, nn

from .small import Shape


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut (1x1 where the shape changes)."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(fan_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False), nn.BatchNorm2d(fan_out)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return result


def resnet18(shape: Shape, classes: int, width: int = 64) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no pooling in front; widths ``width`` times 1, 2, 4, 8.

    >>> sum(p.numel() for p in resnet18((3, 32, 32), 10).parameters())
    11173962
    """
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    fan_in = width
    for stage, stride in enumerate((1, 2, 2, 2)):
        fan_out = width * 2**stage
        layers += [BasicBlock(fan_in, fan_out, stride), BasicBlock(fan_out, fan_out, 1)]
        fan_in = fan_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, classes))


def resnet18_narrow(shape: Shape, classes: int) -> nn.Module:
    """ResNet-18 with a quarter of the width: 16, 32, 64, 128.

    >>> sum(p.numel() for p in resnet18_narrow((3, 32, 32), 10).parameters())
    701466
    """
    return resnet18(shape, classes, width=16)
