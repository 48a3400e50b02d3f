"""A small causal transformer over characters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InvalidInput
from .attention import TransformerBlock
from .initialise import truncated_normal
from .shapes import TokenShape


class CharTransformer(nn.Module):
    """Tokens (n, length), int64 → logits of the next token (n, length, vocabulary), as in GPT-2.

        h_0 = E[tokens] + P[0 ... length - 1],   h_l = block(h_(l-1)),   logits = LN(h_L) W

    Position t sees tokens 0 ... t only. Texts shorter than the longest are fine; the mask and positions are
    cut. Embeddings and linear layers are drawn from N(0, .02²), biases 0, and the two projections of each
    block that end in the residual sum from a deviation smaller by sqrt(2 depth), which keeps the variance of
    that sum (Radford et al. 2019, section 2.3).

    Args:
        longest: of the texts, in tokens.
        vocabulary: number of distinct tokens.
        width: of the residual stream.
        depth: number of blocks.
        heads: of each attention.
        tied: use the embedding as readout, W = Eᵀ (Press and Wolf 2017, arXiv 1608.05859).

    Raises:
        InvalidInput: (at a call) a text longer than ``longest``.

    >>> model = CharTransformer(longest=16, vocabulary=30)
    >>> model(torch.zeros(2, 16, dtype=torch.int64)).shape
    torch.Size([2, 16, 30])
    """

    mask: Tensor

    def __init__(
        self,
        longest: int,
        vocabulary: int,
        *,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.longest = longest
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Parameter(torch.empty(longest, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, vocabulary, bias=False)
        # Not persistent: it follows from the length, so files hold weights only.
        future = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        self.register_buffer("mask", future, persistent=False)
        truncated_normal(self)
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
                nn.init.trunc_normal_(weight, std=0.02 * (2 * depth) ** -0.5)
        if tied:
            self.head.weight = self.token_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.longest:
            raise InvalidInput(
                f"this network reads texts of at most {self.longest} tokens, but got {length}; build it for "
                "the longer ones"
            )
        x = self.token_embedding(tokens) + self.position_embedding[:length]
        mask = self.mask[:length, :length]
        for block in self.blocks:
            x = block(x, mask)
        result: Tensor = self.head(self.norm(x))
        return result


def char_transformer(shape: TokenShape, classes: int) -> nn.Module:
    """Two blocks of width 64 and 4 heads, for texts of ``shape[0]`` tokens out of ``classes``.

    >>> sum(p.numel() for p in char_transformer((64,), 65).parameters())
    112512
    """
    return CharTransformer(shape[0], classes)
