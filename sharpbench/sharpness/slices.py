"""Slices of the loss: along directions, over planes, and between two solutions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import InvalidInput, must_be
from .surface import LossSurface


def filter_normalised(surface: LossSurface, direction: Tensor) -> Tensor:
    """The direction with every filter given the norm of the weights' own filter (Li et al. 2018, section 4).

    A filter is a slice along the first dimension of a weight with two or more; biases and other vectors
    get zero, as there.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    >>> surface = LossSurface(model, nn.functional.mse_loss, (torch.eye(2), torch.zeros(2, 1)))
    >>> filter_normalised(surface, torch.tensor([1.0, 0.0, 7.0]))
    tensor([5., 0., 0.])
    """
    pieces = []
    for piece, p in zip(
        surface.split(direction.to(surface.device, surface.dtype)), surface.parameters, strict=True
    ):
        if p.ndim < 2:
            pieces.append(torch.zeros_like(piece).reshape(-1))
            continue
        rows, weights = piece.flatten(1), p.detach().flatten(1)
        length = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        pieces.append((rows * (weights.norm(dim=1, keepdim=True) / length)).reshape(-1))
    return torch.cat(pieces)


def slice_1d(
    surface: LossSurface,
    *,
    reach: float = 1.0,
    points: int = 41,
    direction: Tensor | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """``L(x + t d)`` for t evenly in [-reach, reach]: columns ``position``, ``loss``.

    d is the filter-normalised ``direction``, by default a random one.

    Raises:
        InvalidInput: reach not > 0, points < 2, or a direction of another dimension.
    """
    _check_grid(reach, points)
    step = filter_normalised(surface, _direction(surface, direction, seed))
    positions = np.linspace(-reach, reach, points)
    return _along(surface, torch.zeros_like(step), step, positions)


def slice_2d(surface: LossSurface, *, reach: float = 1.0, points: int = 15, seed: int = 0) -> pd.DataFrame:
    """``L(x + s d_1 + t d_2)`` on a square grid: columns ``first``, ``second``, ``loss``.

    Two random filter-normalised directions (Li et al. 2018).

    Raises:
        InvalidInput: reach not > 0, or points < 2.
    """
    _check_grid(reach, points)
    first, second = (filter_normalised(surface, _direction(surface, None, seed + i)) for i in (0, 1))
    positions = np.linspace(-reach, reach, points)
    with surface.session():
        rows = [_along(surface, s * first, second, positions).assign(first=s) for s in positions]
    frame = pd.concat(rows, ignore_index=True).rename(columns={"position": "second"})
    return frame[["first", "second", "loss"]]


def interpolation(
    surface: LossSurface, other: Mapping[str, Tensor], *, points: int = 21, beyond: float = 0.25
) -> pd.DataFrame:
    """The loss on the line from x (position 0) to another solution (position 1), and a little beyond both.

    Args:
        surface: the loss surface, at x.
        other: a state dict of the same network; buffers stay those of the surface.
        points: grid points.
        beyond: how far past both ends, in units of their distance.

    Returns:
        A frame with columns ``position``, ``loss``.

    Raises:
        InvalidInput: a parameter missing from ``other`` or of another shape there; points < 2; beyond < 0.
    """
    if points < 2 or not (math.isfinite(beyond) and beyond >= 0):
        raise must_be("points and beyond", ">= 2 and >= 0", (points, beyond))
    named = {id(p): name for name, p in surface.model.named_parameters()}
    ends = []
    for p in surface.parameters:
        name = named[id(p)]
        if name not in other or other[name].shape != p.shape:
            raise InvalidInput(f"other must hold {name!r} of shape {tuple(p.shape)}; is it of another model?")
        ends.append(other[name].detach().to(p).reshape(-1))
    step = torch.cat(ends).to(surface.dtype) - surface.point()
    return _along(surface, torch.zeros_like(step), step, np.linspace(-beyond, 1 + beyond, points))


def _along(
    surface: LossSurface, start: Tensor, step: Tensor, positions: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> pd.DataFrame:
    with surface.session():
        losses = [surface.loss_at(start + float(t) * step) for t in positions]
    return pd.DataFrame({"position": positions, "loss": losses})


def _direction(surface: LossSurface, direction: Tensor | None, seed: int) -> Tensor:
    if direction is None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(surface.dimension, generator=generator).to(surface.device, surface.dtype)
    if direction.shape != (surface.dimension,):
        raise must_be("direction", f"of shape ({surface.dimension},)", tuple(direction.shape))
    return direction


def _check_grid(reach: float, points: int) -> None:
    if not (math.isfinite(reach) and reach > 0) or points < 2:
        raise must_be("reach and points", "> 0 and >= 2", (reach, points))
