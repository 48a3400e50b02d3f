"""Displacements of the parameters, and products with H from differences of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .surface import LossSurface


@contextmanager
def displaced(
    parameters: Sequence[Tensor], split: Callable[[Tensor], list[Tensor]]
) -> Iterator[Callable[[Tensor], None]]:
    """Hands out ``move(offset)``, which sets the parameters to x + offset; x comes back at the end."""
    saved = [p.detach().clone() for p in parameters]

    def move(offset: Tensor) -> None:
        for p, before, piece in zip(parameters, saved, split(offset), strict=True):
            torch.add(before, piece.to(before), out=p.data)

    try:
        yield move
    finally:
        # Through .data, past autograd's version counter: every bit comes back, so a gradient graph
        # kept by the session stays valid.
        for p, before in zip(parameters, saved, strict=True):
            p.data.copy_(before)


def central_difference(surface: LossSurface, row: Tensor, factor: float = 1.0) -> Tensor:
    """``H v ~ (g(x + h v) - g(x - h v)) / 2h``, two gradients; error O(h² + eps/h).

    ``h |v| = factor eps^(1/3) (1 + |x|/sqrt(d))``, which balances truncation against rounding. ReLU kinks
    between the two points add to it; a twice differentiable loss is right to about eps^(2/3).
    """
    length = float(row.norm())
    if length == 0.0:
        return torch.zeros_like(row)
    typical = float(surface.point().norm()) / surface.dimension**0.5
    reach = factor * torch.finfo(surface.dtype).eps ** (1 / 3) * (1 + typical)
    step = (reach / length) * row
    ahead, behind = surface.gradient_at(step), surface.gradient_at(-step)
    return (ahead.double() - behind.double()).mul_(length / (2 * reach)).to(row.dtype)
