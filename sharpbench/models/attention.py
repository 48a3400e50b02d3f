"""The pre-norm transformer block of the ViT and of the character model."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..errors import must_be


class SelfAttention(nn.Module):
    """``softmax(Q Kᵀ / sqrt(d_head) + mask) V`` over ``heads`` heads, and a projection; (n, length, width).

    Written out, not ``scaled_dot_product_attention``: the fused kernels have no second derivative, and
    curvature needs one whoever asks for it.

    Source: Vaswani et al. 2017 (arXiv 1706.03762), eq. 1 and section 3.2.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise must_be("width", f"a multiple of heads = {heads}", width)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        # (n, length, 3 width) -> three of (n, heads, length, width / heads)
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(mask, -torch.inf)
        mixed = scores.softmax(-1) @ value
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class TransformerBlock(nn.Module):
    """``y = x + attention(LN(x))``, then ``y + MLP(LN(y))``; the MLP is ``ratio`` times as wide, with GELU.

    Pre-norm, as in Dosovitskiy et al. 2021, eq. 2-3, and GPT-2; no dropout. Names as in timm.

    >>> TransformerBlock(8, heads=2)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, ratio * width), act=nn.GELU(), fc2=nn.Linear(ratio * width, width)
            )
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        result: Tensor = x + self.mlp(self.norm2(x))
        return result
