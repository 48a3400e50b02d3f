"""Numbers of weights from the papers' tables alone, multiply-adds, and the networks at a small size."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sharpbench.models import MODELS, build_model

SMALL = (
    "mlp", "small_cnn", "resnet18_narrow", "densenet_narrow", "wrn_narrow", "pyramidnet_narrow", "vgg_narrow",
    "resnet50_narrow", "tiny_vit", "char_transformer",
)  # fmt: skip
"""One small network of each family."""

# Name -> (number of weights, classes, where that number is published).
PUBLISHED = {
    "resnet18": (11_173_962, 10, "kuangliu/pytorch-cifar"),
    "densenet121": (6_956_298, 10, "kuangliu/pytorch-cifar"),
    "vgg16_bn": (14_728_266, 10, "kuangliu/pytorch-cifar"),
    "wrn28_10": (36_479_194, 10, "xternalz/WideResNet-pytorch; 36.5 M in the paper, table 4"),
    "pyramidnet110": (28_485_477, 10, "dyhan0920/PyramidNet-PyTorch"),
    "resnet18_imagenet": (11_689_512, 1000, "torchvision"),
    "resnet50_imagenet": (25_557_032, 1000, "torchvision"),
    "vit_s16": (22_050_664, 1000, "timm; 22 M in Touvron et al. 2021, table 1"),
}
# Name -> multiply-adds in G, as published, and to how many of their digits.
PUBLISHED_COSTS = {
    "resnet18_imagenet": (1.81, "torchvision"),
    "resnet50_imagenet": (4.09, "torchvision"),
    "vit_s16": (4.6, "Touvron et al. 2021, table 5"),
}


def norm(channels: int) -> int:
    return 2 * channels


def linear(fan_in: int, fan_out: int) -> int:
    return fan_in * fan_out + fan_out


def dense(channels: int, classes: int, growth: int, blocks: tuple[int, ...]) -> int:
    total, c = 9 * channels * 2 * growth, 2 * growth
    for number, depth in enumerate(blocks):
        if number:
            total += norm(c) + c * (c // 2)
            c //= 2
        for _ in range(depth):
            total += norm(c) + c * 4 * growth + norm(4 * growth) + 9 * 4 * growth * growth
            c += growth
    return total + norm(c) + linear(c, classes)


def wide(channels: int, classes: int, blocks: int, k: int) -> int:
    # A stage from a to b channels: 9ab + 9b² in the first block, 18b² in the others, ab in the shortcut.
    sizes = (16, 16 * k, 32 * k, 64 * k)
    total = 9 * channels * 16
    for stage, (a, b) in enumerate(pairwise(sizes)):
        total += 9 * a * b + (2 * blocks - 1) * 9 * b * b
        total += a * b if stage or a != b else 0
        total += norm(a) + norm(b) + (blocks - 1) * 2 * norm(b)
    return total + norm(sizes[-1]) + linear(sizes[-1], classes)


def pyramid(channels: int, classes: int, blocks: int, step: int) -> int:
    widths = [16 + step * k for k in range(blocks + 1)]
    body = sum(9 * a * b + 9 * b * b + norm(a) + 2 * norm(b) for a, b in pairwise(widths))
    return 9 * channels * 16 + norm(16) + body + norm(widths[-1]) + linear(widths[-1], classes)


def vgg(channels: int, classes: int, w: int) -> int:
    sizes = [channels, *(m * w for m in (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8))]
    return sum(9 * a * b + b + norm(b) for a, b in pairwise(sizes)) + linear(8 * w, classes)


def basic(stem: int, channels: int, classes: int, w: int) -> int:
    total = stem**2 * channels * w + norm(w)
    for stage in range(4):
        b = w * 2**stage
        a = b if stage == 0 else b // 2
        total += 9 * a * b + 3 * 9 * b * b + 4 * norm(b) + (a * b + norm(b) if stage else 0)
    return total + linear(8 * w, classes)


def bottleneck(channels: int, classes: int, w: int) -> int:
    total, a = 49 * channels * w + norm(w), w
    for stage, depth in enumerate((3, 4, 6, 3)):
        b = w * 2**stage
        total += a * 4 * b + norm(4 * b)  # the projection of the first shortcut
        for _ in range(depth):
            total += a * b + 9 * b * b + 4 * b * b + 2 * norm(b) + norm(4 * b)
            a = 4 * b
    return total + linear(a, classes)


def block(w: int) -> int:
    # two LayerNorms 4w, QKV 3w² + 3w, projection w² + w, MLP 8w² + 5w
    return 12 * w * w + 13 * w


def vit(shape: tuple[int, ...], classes: int, patch: int, w: int, depth: int) -> int:
    channels, height, width = shape
    tokens = height * width // patch**2 + 1
    return channels * patch**2 * w + w + w + tokens * w + depth * block(w) + 2 * w + linear(w, classes)


COUNTS: dict[str, Callable[[tuple[int, ...], int], int]] = {
    "mlp": lambda s, k: linear(math.prod(s), 256) + linear(256, 256) + linear(256, k),
    "small_cnn": lambda s, k: (
        9 * s[0] * 16 + norm(16) + 9 * 16 * 32 + norm(32)
        + linear(32 * ((s[1] + 1) // 4) * ((s[2] + 1) // 4), k)
    ),
    "resnet18": lambda s, k: basic(3, s[0], k, 64),
    "resnet18_narrow": lambda s, k: basic(3, s[0], k, 16),
    "densenet121": lambda s, k: dense(s[0], k, 32, (6, 12, 24, 16)),
    "densenet_narrow": lambda s, k: dense(s[0], k, 12, (2, 4, 8, 4)),
    "wrn28_10": lambda s, k: wide(s[0], k, 4, 10),
    "wrn_narrow": lambda s, k: wide(s[0], k, 2, 1),
    "pyramidnet110": lambda s, k: pyramid(s[0], k, 54, 5),
    "pyramidnet_narrow": lambda s, k: pyramid(s[0], k, 9, 2),
    "vgg16_bn": lambda s, k: vgg(s[0], k, 64),
    "vgg_narrow": lambda s, k: vgg(s[0], k, 8),
    "resnet18_imagenet": lambda s, k: basic(7, s[0], k, 64),
    "resnet50_imagenet": lambda s, k: bottleneck(s[0], k, 64),
    "resnet50_narrow": lambda s, k: bottleneck(s[0], k, 8),
    "vit_s16": lambda s, k: vit(s, k, 16, 384, 12),
    "tiny_vit": lambda s, k: vit(s, k, 2 if max(s[1:]) <= 16 else 4, 64, 4),
    "char_transformer": lambda s, k: 64 * (2 * k + s[0]) + 2 * block(64) + 2 * 64,
}  # fmt: skip


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def on_meta(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network without memory or arithmetic: shapes only."""
    with torch.device("meta"):
        return build_model(name, shape, classes)


def multiply_adds(name: str) -> float:
    """Of a forward pass on one input of the usual shape: convolutions and matrix products."""
    entry = MODELS[name]
    network = on_meta(name, entry.usual, entry.classes).eval()
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(inputs(name, entry.usual, 1, entry.classes))
    return counter.get_total_flops() / 2


def inputs(name: str, shape: tuple[int, ...], count: int, classes: int) -> Tensor:
    if MODELS[name].kind == "tokens":
        return torch.randint(0, classes, (count, *shape))
    return torch.randn(count, *shape)


def small_shape(name: str) -> tuple[int, ...]:
    """The shape of cheap tests: digits where that is large enough."""
    entry = MODELS[name]
    if entry.kind == "tokens":
        return (6,)
    return (1, 8, 8) if entry.smallest <= 8 else (3, entry.smallest, entry.smallest)


def small_problem(name: str, count: int = 16, classes: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of ``classes`` with inputs and labels, always the same."""
    torch.manual_seed(0)
    shape = small_shape(name)
    network, x = build_model(name, shape, classes), inputs(name, shape, count, classes)
    labels = x.roll(-1, 1) if MODELS[name].kind == "tokens" else torch.arange(count) % classes
    return network, x, labels
