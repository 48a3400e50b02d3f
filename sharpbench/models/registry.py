"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from ..errors import must_be, unknown_name
from .char_transformer import char_transformer
from .densenet import densenet121, densenet_narrow
from .pyramidnet import pyramidnet110, pyramidnet_narrow
from .resnet import resnet18, resnet18_narrow
from .resnet_imagenet import resnet18_imagenet, resnet50_imagenet, resnet50_narrow
from .shapes import ImageShape, Kind, Shape, require_kind, require_pixels
from .small import mlp, small_cnn
from .vgg import vgg16_bn, vgg_narrow
from .vit import tiny_vit, vit_s16
from .wide_resnet import wrn28_10, wrn_narrow


@dataclass(frozen=True)
class ModelEntry:
    """A registered network.

    Attributes:
        name: as in suites.
        build: (shape, classes) → network.
        summary: one line.
        kind: what it takes, images or tokens.
        smallest: shortest side of its images in pixels (tokens: 1).
        usual: the shape it is known for; of its published number of weights.
        classes: likewise.
    """

    name: str
    build: Callable[..., nn.Module]
    summary: str
    kind: Kind = "images"
    smallest: int = 1
    usual: Shape = (3, 32, 32)
    classes: int = 10


DIGITS, CIFAR, IMAGENET = (1, 8, 8), (3, 32, 32), (3, 224, 224)

_ENTRIES = (
    ModelEntry("mlp", mlp, "fully connected ReLU network with hidden layers of 256 and 256", usual=DIGITS),
    ModelEntry(
        "small_cnn",
        small_cnn,
        "two 3x3 convolutions (16, 32) with BatchNorm, mean-pooling, one linear layer",
        smallest=3,
        usual=DIGITS,
    ),
    ModelEntry("resnet18", resnet18, "ResNet-18 for 32x32 images, 11 174 000 weights", smallest=8),
    ModelEntry("resnet18_narrow", resnet18_narrow, "ResNet-18 of a quarter of the width", smallest=8),
    ModelEntry("densenet121", densenet121, "DenseNet-121 (growth 32) for 32x32 images", smallest=8),
    ModelEntry(
        "densenet_narrow", densenet_narrow, "DenseNet-BC of growth 12, blocks of 2, 4, 8, 4", smallest=8
    ),
    ModelEntry("wrn28_10", wrn28_10, "WideResNet-28-10", smallest=4),
    ModelEntry("wrn_narrow", wrn_narrow, "WideResNet-16-1", smallest=4),
    ModelEntry("pyramidnet110", pyramidnet110, "PyramidNet-110 (alpha 270), basic blocks", smallest=4),
    ModelEntry("pyramidnet_narrow", pyramidnet_narrow, "PyramidNet-20 (alpha 18), basic blocks", smallest=4),
    ModelEntry("vgg16_bn", vgg16_bn, "VGG-16 with BatchNorm and one linear layer", smallest=8),
    ModelEntry("vgg_narrow", vgg_narrow, "VGG-16 with BatchNorm, an eighth of the width", smallest=8),
    ModelEntry(
        "resnet18_imagenet",
        resnet18_imagenet,
        "ResNet-18 with the 7x7 stem, for 224x224 images",
        smallest=32,
        usual=IMAGENET,
        classes=1000,
    ),
    ModelEntry(
        "resnet50_imagenet",
        resnet50_imagenet,
        "ResNet-50 with the 7x7 stem, for 224x224 images",
        smallest=32,
        usual=IMAGENET,
        classes=1000,
    ),
    ModelEntry("resnet50_narrow", resnet50_narrow, "ResNet-50 of an eighth of the width", smallest=32),
    ModelEntry(
        "vit_s16",
        vit_s16,
        "vision transformer ViT-S/16: 12 blocks of width 384, 6 heads",
        smallest=16,
        usual=IMAGENET,
        classes=1000,
    ),
    ModelEntry(
        "tiny_vit",
        tiny_vit,
        "vision transformer: 4 blocks of width 64, 4 heads, patches of 2x2 or 4x4",
        smallest=2,
    ),
    ModelEntry(
        "char_transformer",
        char_transformer,
        "causal transformer over characters: 2 blocks of width 64, 4 heads",
        kind="tokens",
        usual=(64,),
        classes=65,
    ),
)
MODELS: Mapping[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}


def build_model(name: str, shape: Shape, classes: int) -> nn.Module:
    """The network called ``name``, its weights drawn from torch's global generator.

    Args:
        name: one of :data:`MODELS`.
        shape: (channels, height, width) of the images, or (length,) of the texts.
        classes: number of classes; for tokens, of the vocabulary.

    Returns:
        Images (n, channels, height, width) → logits (n, classes); tokens (n, length) → logits
        (n, length, classes).

    Raises:
        InvalidInput: unknown name, the wrong kind of input, too small an image, or one that a vision
            transformer's patches don't tile.

    >>> build_model("char_transformer", (3, 32, 32), 10)
    Traceback (most recent call last):
    sharpbench.errors.InvalidInput: char_transformer takes tokens of shape (length,), but got (3, 32, 32); \
for images take one of: mlp, small_cnn, ...
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    entry = MODELS[name]
    require_kind(name, entry.kind, shape, [other.name for other in _ENTRIES if other.kind != entry.kind])
    if entry.kind == "images":
        require_pixels(name, cast(ImageShape, tuple(shape)), entry.smallest)
    if classes < 1:
        raise must_be("classes", ">= 1", classes)
    return entry.build(tuple(shape), classes)
