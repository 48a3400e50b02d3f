"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from ..errors import unknown_name
from .resnet import resnet18, resnet18_narrow
from .small import Shape, mlp, small_cnn


@dataclass(frozen=True)
class ModelEntry:
    """A registered network: how to build it from an input shape and a number of classes."""

    name: str
    build: Callable[[Shape, int], nn.Module]
    summary: str


MODELS: Mapping[str, ModelEntry] = {
    "mlp": ModelEntry("mlp", mlp, "fully connected ReLU network with hidden layers of 256 and 256"),
    "small_cnn": ModelEntry(
        "small_cnn", small_cnn, "two 3x3 convolutions (16, 32) with BatchNorm, mean-pooling, one linear layer"
    ),
    "resnet18": ModelEntry("resnet18", resnet18, "ResNet-18 for 32x32 images, 11 174 000 weights"),
    "resnet18_narrow": ModelEntry("resnet18_narrow", resnet18_narrow, "ResNet-18 of a quarter of the width"),
}


def build_model(name: str, shape: Shape, classes: int) -> nn.Module:
    """The network called ``name`` for images of ``shape`` (channels, height, width).

    Raises:
        InvalidInput: unknown name.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name].build(shape, classes)


__all__ = ["MODELS", "ModelEntry", "Shape", "build_model", "mlp", "resnet18", "resnet18_narrow", "small_cnn"]
