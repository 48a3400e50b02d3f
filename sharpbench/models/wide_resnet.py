"""WideResNet (Zagoruyko and Komodakis 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import must_be
from .initialise import he_fan_out
from .shapes import ImageShape


class WideBlock(nn.Module):
    """Pre-activation residual block B(3, 3): ``y = shortcut(x) + conv(ReLU(BN(conv(ReLU(BN(x))))))``.

    Where the shape changes, the shortcut is a 1x1 convolution of the *activated* input, without BatchNorm.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.activation = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Conv2d(fan_in, fan_out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        result: Tensor = self.conv2(self.activation(self.norm2(self.conv1(out)))) + shortcut
        return result


def wide_resnet(shape: ImageShape, classes: int, depth: int, widen: int) -> nn.Module:
    """WRN-``depth``-``widen`` without dropout: three stages of widths 16, 32, 64 times ``widen``.

    Images (n, channels, height, width) → logits (n, classes). ``depth`` = 6 n + 4, with n blocks a stage.
    Convolutions are drawn by He's rule with fan-out, the readout's bias is 0 (the authors' code).

    Source: Zagoruyko and Komodakis 2016 (arXiv 1605.07146), table 1.

    Raises:
        InvalidInput: a depth that is not 6 n + 4.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise must_be("depth of a WideResNet", "6 n + 4: 10, 16, 22, 28, ...", depth)
    layers: list[nn.Module] = [nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)]
    fan_in = 16
    for stage in range(3):
        fan_out = 16 * widen * 2**stage
        for number in range(blocks):
            layers.append(WideBlock(fan_in, fan_out, stride=2 if stage and not number else 1))
            fan_in = fan_out
    layers += [nn.BatchNorm2d(fan_in), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    readout = nn.Linear(fan_in, classes)
    network = nn.Sequential(*layers, readout)
    he_fan_out(network)
    nn.init.zeros_(readout.bias)
    return network


def wrn28_10(shape: ImageShape, classes: int) -> nn.Module:
    """WRN-28-10; 5.2 G multiply-adds at 32x32. See :func:`wide_resnet`.

    >>> sum(p.numel() for p in wrn28_10((3, 32, 32), 10).parameters())
    36479194
    """
    return wide_resnet(shape, classes, depth=28, widen=10)


def wrn_narrow(shape: ImageShape, classes: int) -> nn.Module:
    """WRN-16-1: two blocks a stage, widths 16, 32, 64.

    >>> sum(p.numel() for p in wrn_narrow((3, 32, 32), 10).parameters())
    175066
    """
    return wide_resnet(shape, classes, depth=16, widen=1)
