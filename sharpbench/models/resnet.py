"""ResNet-18 for small images (He et al. 2016, in the CIFAR form of its public re-implementations)."""

from __future__ import annotations

from torch import Tensor, nn

from .shapes import ImageShape


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and a shortcut (1x1 where the shape changes).

    ``y = ReLU(F(x) + shortcut(x))``, He et al. 2016 (arXiv 1512.03385), fig. 2 and eq. 1-2.
    """

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


def resnet18(shape: ImageShape, classes: int, width: int = 64) -> nn.Module:
    """ResNet-18 with a 3x3 stem and no pooling in front; widths ``width`` times 1, 2, 4, 8.

    Images (n, channels, height, width) → logits (n, classes). Table 1 of He et al. 2016 with the stem that
    the SAM papers use on CIFAR (.56 G multiply-adds at 32x32). Initialisation is torch's default, as in the
    re-implementations whose accuracies those papers quote, not the paper's fan-out.

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


def resnet18_narrow(shape: ImageShape, classes: int) -> nn.Module:
    """ResNet-18 with a quarter of the width: 16, 32, 64, 128.

    >>> sum(p.numel() for p in resnet18_narrow((3, 32, 32), 10).parameters())
    701466
    """
    return resnet18(shape, classes, width=16)
