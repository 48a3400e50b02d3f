"""PyramidNet with basic blocks (Han et al. 2017)."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import must_be
from .initialise import he_fan_out
from .shapes import ImageShape

STEM = 16  # channels before the first block, whatever alpha


class PyramidBlock(nn.Module):
    """``y = pad(pool(x)) + BN(conv(ReLU(BN(conv(BN(x))))))``: fig. 6 (d) of the paper.

    The shortcut has no weights: 2x2 mean-pooling where the block has stride 2, and zeros for the channels
    that the block adds.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.activation = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(fan_out)
        # ceil_mode: an odd side is halved upwards, as the convolution of stride 2 does.
        self.pool: nn.Module = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.added = fan_out - fan_in

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.norm2(self.conv1(self.norm1(x))))
        out = self.norm3(self.conv2(out))
        shortcut = nn.functional.pad(self.pool(x), (0, 0, 0, 0, 0, self.added))
        result: Tensor = out + shortcut
        return result


def pyramidnet(shape: ImageShape, classes: int, depth: int, alpha: int) -> nn.Module:
    """PyramidNet-``depth`` (alpha), additive, basic blocks.

        D_k = round(16 + k alpha / N),   k = 1 ... N,   N = (depth - 2) / 2 blocks in three equal stages

    Images (n, channels, height, width) → logits (n, classes). Convolutions are drawn by He's rule with
    fan-out. Deviation: the widths are the exact sums, rounded, as in the authors' code; the paper's eq. 3
    rounds down at each step, which for alpha < N would never grow. Where N divides alpha both agree.

    Source: Han et al. 2017 (arXiv 1610.02915), eq. 3, table 1, figs. 5 (b) and 6 (d).

    Raises:
        InvalidInput: a depth that is not 6 n + 2, or alpha < 0.
    """
    stage, rest = divmod(depth - 2, 6)
    if rest or stage < 1:
        raise must_be("depth of a PyramidNet of basic blocks", "6 n + 2: 8, 14, 20, ..., 110, ...", depth)
    if alpha < 0:
        raise must_be("alpha", ">= 0", alpha)
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], STEM, 3, padding=1, bias=False),
        nn.BatchNorm2d(STEM),
    ]
    fan_in = STEM
    for number in range(3 * stage):
        fan_out = STEM + round((number + 1) * alpha / (3 * stage))
        layers.append(PyramidBlock(fan_in, fan_out, stride=2 if number in (stage, 2 * stage) else 1))
        fan_in = fan_out
    layers += [nn.BatchNorm2d(fan_in), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(fan_in, classes))
    he_fan_out(network)
    return network


def pyramidnet110(shape: ImageShape, classes: int) -> nn.Module:
    """PyramidNet-110 with alpha 270; 4.7 G multiply-adds at 32x32. See :func:`pyramidnet`.

    >>> sum(p.numel() for p in pyramidnet110((3, 32, 32), 10).parameters())
    28485477
    """
    return pyramidnet(shape, classes, depth=110, alpha=270)


def pyramidnet_narrow(shape: ImageShape, classes: int) -> nn.Module:
    """PyramidNet-20 with alpha 18: nine blocks, each wider than the last by two channels, up to 34.

    >>> sum(p.numel() for p in pyramidnet_narrow((3, 32, 32), 10).parameters())
    111870
    """
    return pyramidnet(shape, classes, depth=20, alpha=18)
