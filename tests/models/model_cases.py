"""Each family of networks at small width, with data that fit, for the tests that take all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sharpbench.models import ImageShape, Shape, build_model
from sharpbench.models.resnet_imagenet import Basic, residual_network

CLASSES = 5
FAMILIES: dict[str, Shape] = {
    "mlp": (1, 8, 8),
    "small_cnn": (1, 8, 8),
    "resnet18_narrow": (1, 8, 8),
    "densenet_narrow": (1, 8, 8),
    "wrn_narrow": (1, 8, 8),
    "pyramidnet_narrow": (1, 8, 8),
    "vgg_narrow": (1, 8, 8),
    "resnet50_narrow": (3, 32, 32),
    "tiny_vit": (1, 8, 8),
    "char_transformer": (8,),
}
# The networks of the papers → the narrow one with the same layers.
NARROW = {
    "resnet18": "resnet18_narrow",
    "densenet121": "densenet_narrow",
    "wrn28_10": "wrn_narrow",
    "pyramidnet110": "pyramidnet_narrow",
    "vgg16_bn": "vgg_narrow",
    "resnet18_imagenet": "resnet18_imagenet_narrow",
    "resnet50_imagenet": "resnet50_narrow",
    "vit_s16": "tiny_vit",
}


def network(name: str, shape: Shape | None = None, seed: int = 0) -> nn.Module:
    """A family's network, drawn under ``seed``; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name == "resnet18_imagenet_narrow":  # not registered: the tests want its layers only
            images: ImageShape = (3, 32, 32)
            return residual_network(images, CLASSES, Basic, (2, 2, 2, 2), width=8)
        return build_model(name, shape or FAMILIES[name], CLASSES)


def examples(name: str, count: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Random inputs and labels of a family: images and classes, or texts and the tokens that follow."""
    shape = FAMILIES.get(name, (3, 32, 32))
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 1:
        tokens = torch.randint(CLASSES, (count, shape[0] + 1), generator=generator)
        return tokens[:, :-1], tokens[:, 1:]
    inputs = torch.randn(count, *shape, generator=generator, dtype=dtype)
    return inputs, torch.randint(CLASSES, (count,), generator=generator)
