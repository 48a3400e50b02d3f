"""Numbers of weights: the published ones, each derived from its paper's table by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharpbench.models import build_model
from sharpbench.models.densenet import densenet
from sharpbench.models.pyramidnet import pyramidnet
from sharpbench.models.wide_resnet import wide_resnet


def conv(kernel: int, fan_in: int, fan_out: int) -> int:
    return kernel**2 * fan_in * fan_out


def norm(channels: int) -> int:
    return 2 * channels


def linear(fan_in: int, fan_out: int) -> int:
    return (fan_in + 1) * fan_out


def residual_18(stem: int, classes: int) -> int:
    """He et al. 2016, table 1, column 18-layer: two blocks of two convolutions at each width."""
    total = stem + norm(64) + linear(512, classes)
    for width in (64, 128, 256, 512):
        before = max(width // 2, 64)
        total += conv(3, before, width) + 3 * conv(3, width, width) + 4 * norm(width)
        if before != width:
            total += conv(1, before, width) + norm(width)
    return total


def residual_50(classes: int) -> int:
    """Table 1, column 50-layer: bottlenecks of 1x1, 3x3, 1x1, the last four times as wide."""
    total, before = conv(7, 3, 64) + norm(64) + linear(2048, classes), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            total += conv(1, before, width) + conv(3, width, width) + conv(1, width, 4 * width)
            total += 2 * norm(width) + norm(4 * width)
            if block == 0:
                total += conv(1, before, 4 * width) + norm(4 * width)
            before = 4 * width
    return total


def dense(growth: int, blocks: tuple[int, ...], classes: int) -> int:
    """Huang et al. 2017: layer l of a block sees its input and l earlier layers of ``growth`` channels."""
    start, total = 2 * growth, conv(3, 3, 2 * growth)
    for number, depth in enumerate(blocks):
        for layer in range(depth):
            seen = start + layer * growth
            total += norm(seen) + conv(1, seen, 4 * growth) + norm(4 * growth) + conv(3, 4 * growth, growth)
        start += depth * growth
        if number < len(blocks) - 1:
            total += norm(start) + conv(1, start, start // 2)
            start //= 2
    return total + norm(start) + linear(start, classes)


def wide(depth: int, widen: int, classes: int) -> int:
    """Zagoruyko and Komodakis 2016, table 1; a norm before each convolution and a last one."""
    total, before = conv(3, 3, 16), 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        for block in range((depth - 4) // 6):
            total += norm(before) + conv(3, before, width) + norm(width) + conv(3, width, width)
            if block == 0 and before != width:
                total += conv(1, before, width)
            before = width
    return total + norm(before) + linear(before, classes)


def pyramid(depth: int, alpha: int, classes: int) -> int:
    """Han et al. 2017, eq. 3 (additive) and fig. 6 (d): three norms a block, shortcuts without weights."""
    blocks = (depth - 2) // 2
    widths = [16 + round(alpha * k / blocks) for k in range(blocks + 1)]
    body = sum(
        norm(before) + conv(3, before, after) + norm(after) + conv(3, after, after) + norm(after)
        for before, after in zip(widths, widths[1:], strict=False)
    )
    return conv(3, 3, 16) + norm(16) + body + norm(widths[-1]) + linear(widths[-1], classes)


def vgg_16(classes: int, width: int = 64) -> int:
    """Simonyan and Zisserman 2015, table 1, column D: convolutions with bias, and a norm after each."""
    multiples = (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)
    channels = (3, *(multiple * width for multiple in multiples))
    body = sum(conv(3, a, b) + b + norm(b) for a, b in zip(channels, channels[1:], strict=False))
    return body + linear(channels[-1], classes)


def blocks_of(width: int, depth: int) -> int:
    """Query, key, value, projection; an MLP four times as wide; two norms: 12 width² + 13 width a block."""
    return depth * (12 * width**2 + 13 * width)


def vision(patch: int, width: int, depth: int, side: int, classes: int, channels: int = 3) -> int:
    """Dosovitskiy et al. 2021, eq. 1-4: patch projection, class token, positions, blocks, norm, readout."""
    positions = (side // patch) ** 2 + 1
    embedding = linear(channels * patch**2, width) + width + positions * width
    return embedding + blocks_of(width, depth) + norm(width) + linear(width, classes)


def characters(length: int, vocabulary: int) -> int:
    return (vocabulary + length) * 64 + blocks_of(64, 2) + norm(64) + 64 * vocabulary


SMALL, LARGE = (3, 32, 32), (3, 224, 224)
# name, shape, classes, the published count (None: ours alone), the derivation.
# Sources: kuangliu/pytorch-cifar (ResNet-18, DenseNet-121, VGG-16), osmr/imgclsmob (WideResNet, PyramidNet),
# torchvision (ImageNet ResNets), facebookresearch/deit (ViT-S).
PUBLISHED = [
    ("resnet18", SMALL, 10, 11_173_962, residual_18(conv(3, 3, 64), 10)),
    ("resnet18", SMALL, 100, 11_220_132, residual_18(conv(3, 3, 64), 100)),
    ("densenet121", SMALL, 10, 6_956_298, dense(32, (6, 12, 24, 16), 10)),
    ("wrn28_10", SMALL, 10, 36_479_194, wide(28, 10, 10)),
    ("wrn28_10", SMALL, 100, 36_536_884, wide(28, 10, 100)),
    ("pyramidnet110", SMALL, 10, 28_485_477, pyramid(110, 270, 10)),
    ("pyramidnet110", SMALL, 100, 28_511_307, pyramid(110, 270, 100)),
    ("vgg16_bn", SMALL, 10, 14_728_266, vgg_16(10)),
    ("resnet18_imagenet", LARGE, 1000, 11_689_512, residual_18(conv(7, 3, 64), 1000)),
    ("resnet50_imagenet", LARGE, 1000, 25_557_032, residual_50(1000)),
    ("vit_s16", LARGE, 1000, 22_050_664, vision(16, 384, 12, 224, 1000)),
]
DERIVED = [
    ("mlp", (1, 8, 8), 10, linear(64, 256) + linear(256, 256) + linear(256, 10)),
    ("small_cnn", (1, 8, 8), 10, conv(3, 1, 16) + norm(16) + conv(3, 16, 32) + norm(32) + linear(128, 10)),
    ("densenet_narrow", SMALL, 10, dense(12, (2, 4, 8, 4), 10)),
    ("wrn_narrow", SMALL, 10, wide(16, 1, 10)),
    ("pyramidnet_narrow", SMALL, 10, pyramid(20, 18, 10)),
    ("vgg_narrow", SMALL, 10, vgg_16(10, width=8)),
    ("tiny_vit", SMALL, 10, vision(4, 64, 4, 32, 10)),
    ("tiny_vit", (1, 8, 8), 10, vision(2, 64, 4, 8, 10, channels=1)),
    ("char_transformer", (64,), 65, characters(64, 65)),
]


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "shape", "classes", "published", "derived"), PUBLISHED)
def test_published_number_of_weights(
    name: str, shape: tuple[int, ...], classes: int, published: int, derived: int
) -> None:
    with torch.device("meta"):
        assert weights(build_model(name, shape, classes)) == derived == published


@pytest.mark.parametrize(("name", "shape", "classes", "derived"), DERIVED)
def test_derived_number_of_weights(name: str, shape: tuple[int, ...], classes: int, derived: int) -> None:
    with torch.device("meta"):
        assert weights(build_model(name, shape, classes)) == derived


@pytest.mark.parametrize(
    ("depth", "widen", "published"), [(16, 10, 17_116_634), (28, 10, 36_479_194), (40, 8, 35_748_314)]
)
def test_other_wide_residual_networks(depth: int, widen: int, published: int) -> None:
    """As in osmr/imgclsmob; the paper's table 1 and 4 give 17.1, 36.5 and 35.7 million."""
    with torch.device("meta"):
        assert weights(wide_resnet((3, 32, 32), 10, depth, widen)) == wide(depth, widen, 10) == published


@pytest.mark.parametrize(("alpha", "published"), [(48, 1_772_706), (84, 3_904_446), (270, 28_485_477)])
def test_other_pyramidal_networks(alpha: int, published: int) -> None:
    """As in osmr/imgclsmob; the paper's table 4 gives 1.7, 3.8 and 28.3 million."""
    with torch.device("meta"):
        assert weights(pyramidnet((3, 32, 32), 10, 110, alpha)) == pyramid(110, alpha, 10) == published


@pytest.mark.parametrize(("growth", "layers", "millions"), [(12, 16, 0.8), (24, 41, 15.3), (40, 31, 25.6)])
def test_dense_networks_of_table_2(growth: int, layers: int, millions: float) -> None:
    """Huang et al. 2017, table 2, DenseNet-BC of three equal blocks: 100 (12), 250 (24), 190 (40)."""
    with torch.device("meta"):
        count = weights(densenet((3, 32, 32), 10, growth, (layers,) * 3))
    assert count == dense(growth, (layers,) * 3, 10)
    assert round(count / 1e6, 1) == pytest.approx(millions, abs=0.051)
