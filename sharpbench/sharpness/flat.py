"""Flat vectors over the parameters, and means over batches of such vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import must_be


class Layout:
    """How a flat ``(d,)`` vector is cut into tensors shaped like the parameters.

    >>> layout = Layout([torch.zeros(2, 1), torch.zeros(3)])
    >>> layout.dimension, [tuple(piece.shape) for piece in layout.split(torch.arange(5))]
    (5, [(2, 1), (3,)])
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.shapes = [p.shape for p in parameters]
        self.sizes = [p.numel() for p in parameters]
        self.dimension = sum(self.sizes)

    def split(self, vector: Tensor) -> list[Tensor]:
        """The pieces of a flat vector, as views."""
        pieces = vector.split(self.sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def check(self, vectors: Tensor) -> None:
        """Refuse what is neither ``(d,)`` nor ``(d, k)``."""
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.dimension:
            d = self.dimension
            raise must_be("vectors", f"of shape ({d},) or ({d}, k)", tuple(vectors.shape))


def flatten(pieces: Sequence[Tensor]) -> Tensor:
    """One flat vector of tensors laid end to end, without a graph.

    >>> flatten([torch.zeros(2, 1), torch.ones(1)])
    tensor([0., 0., 1.])
    """
    return torch.cat([piece.detach().reshape(-1) for piece in pieces])


def whole(pieces: Sequence[Tensor]) -> list[Tensor]:
    """Pieces of a gradient as ordinary tensors; embeddings may give sparse ones."""
    return [piece if piece.layout == torch.strided else piece.to_dense() for piece in pieces]


@dataclass
class BatchMean:
    """``sum_b s_b t_b`` for k flat vectors at once, ``s_b`` the share of batch b in the loss; a term comes as
    pieces shaped like the parameters.

    Summed in float64 on CPU, where that is cheap. A single batch that holds every example has nothing to
    sum, and is handed through.
    """

    layout: Layout
    count: int
    dtype: torch.dtype
    device: torch.device
    whole: bool

    def __post_init__(self) -> None:
        self._single: list[Tensor] = []
        self._total: Tensor | None = None

    def add(self, index: int, pieces: Sequence[Tensor], share: float) -> None:
        """Add the term of a batch with this share to the vector of this index (in order, from 0)."""
        if self.whole:
            self._single.append(flatten(pieces))
            return
        lines = self.layout.split(self._sum()[index])
        for line, piece in zip(lines, pieces, strict=True):
            line.add_(piece.detach(), alpha=share)

    def value(self) -> Tensor:
        """The mean, shape ``(k, d)``; zero where no batch was added."""
        if not self._single:
            return self._sum()
        return self._single[0][None] if self.count == 1 else torch.stack(self._single)

    def _sum(self) -> Tensor:
        if self._total is None:
            dtype = torch.float64 if self.device.type == "cpu" and not self.whole else self.dtype
            self._total = torch.zeros(self.count, self.layout.dimension, dtype=dtype, device=self.device)
        return self._total
