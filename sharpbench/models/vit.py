"""The vision transformer (Dosovitskiy et al. 2021), with timm's names of the weights."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from .attention import TransformerBlock
from .initialise import truncated_normal
from .shapes import ImageShape


class VisionTransformer(nn.Module):
    """Patches and a class token → blocks → LayerNorm → a linear readout of the class token.

        z_0 = [class; x_1 E; ...; x_N E] + E_pos,   z_l = block(z_(l-1)),   y = LN(z_L^0)

    Images (n, channels, height, width) → logits (n, classes); N = (height / patch) (width / patch). Linear
    layers, the class token and positions are drawn from N(0, .02²), truncated, biases 0. The projection E is
    drawn from a truncated normal of variance 1 / fan-in (the authors' code), so that small patches have
    unit scale too.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eq. 1-4 and fig. 1; ViT-S is Touvron et al. 2021
    (arXiv 2012.12877), table 1. Deviations: no dropout, and no hidden layer in the readout.

    Raises:
        InvalidInput: a side that is not a multiple of the patch.

    >>> VisionTransformer((1, 8, 8), 10, patch=4, width=8, depth=1, heads=2)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, shape: ImageShape, classes: int, *, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        channels, *sides = shape
        if any(side % patch for side in sides):
            raise InvalidInput(
                f"this vision transformer cuts images into patches of {patch}x{patch} pixels, so their sides "
                f"must be multiples of {patch}, but got {sides[0]}x{sides[1]}"
            )
        count = (sides[0] // patch) * (sides[1] // patch)
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(channels, width, patch, stride=patch)))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, count + 1, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        truncated_normal(self)
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        result: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return result


def vit_s16(shape: ImageShape, classes: int) -> nn.Module:
    """ViT-S/16: patches of 16x16, width 384, 12 blocks of 6 heads; 4.6 G multiply-adds at 224x224.

    >>> sum(p.numel() for p in vit_s16((3, 224, 224), 1000).parameters())
    22050664
    """
    return VisionTransformer(shape, classes, patch=16, width=384, depth=12, heads=6)


def tiny_vit(shape: ImageShape, classes: int) -> nn.Module:
    """A ViT of width 64 with 4 blocks of 4 heads; patches of 2x2 pixels up to 16x16 images, else of 4x4.

    >>> sum(p.numel() for p in tiny_vit((1, 8, 8), 10).parameters())
    202186
    """
    patch = 2 if max(shape[1:]) <= 16 else 4
    return VisionTransformer(shape, classes, patch=patch, width=64, depth=4, heads=4)
