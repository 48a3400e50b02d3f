"""Laws mu of the random direction u in (phi, psi, mu)-sharpness.

A law draws one u over the *whole* parameter vector: ``sample(params, generator)`` returns a list of
tensors with the shapes, dtype and device of ``params``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .errors import must_be


class Law(Protocol):
    """A distribution over parameter vectors."""

    def sample(self, params: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
        """One draw of u, as a list of tensors shaped like ``params``."""
        ...


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


@dataclass(frozen=True)
class Gaussian:
    """u ~ N(0, scale^2 I).

    >>> [t.shape for t in Gaussian().sample([torch.zeros(2, 3)])]
    [torch.Size([2, 3])]
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise must_be("scale", "> 0", self.scale)

    def sample(self, params: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
        draws = [_normal(p, generator) for p in params]
        if self.scale != 1.0:
            torch._foreach_mul_(draws, self.scale)
        return draws


@dataclass(frozen=True)
class Rademacher:
    """u_i = +-1 with equal probability. Right for the trace, wrong for the Frobenius norm: 2 Var(q)
    is then only the off-diagonal part of ||H||_F^2.
    """

    def sample(self, params: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
        return [
            torch.randint(0, 2, p.shape, device=p.device, generator=generator).to(p.dtype).mul_(2).sub_(1)
            for p in params
        ]


@dataclass(frozen=True)
class Sphere:
    """u uniform on the sphere of the given radius; ``radius="sqrt_d"`` is the radius sqrt(d)."""

    radius: float | str = 1.0

    def __post_init__(self) -> None:
        if self.radius != "sqrt_d" and not (isinstance(self.radius, int | float) and self.radius > 0):
            raise must_be("radius", "> 0 or 'sqrt_d'", self.radius)

    def sample(self, params: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
        draws = [_normal(p, generator) for p in params]
        norm = torch.stack([d.norm() for d in draws]).norm()
        size = sum(p.numel() for p in params)
        radius = math.sqrt(size) if isinstance(self.radius, str) else float(self.radius)
        scale = radius / norm
        return [d.mul_(scale.to(d.dtype)) for d in draws]


@dataclass(frozen=True)
class UniformCube:
    """u ~ Unif[-half_width, half_width]^d."""

    half_width: float = 1.0

    def __post_init__(self) -> None:
        if not self.half_width > 0:
            raise must_be("half_width", "> 0", self.half_width)

    def sample(self, params: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
        return [
            torch.rand(p.shape, dtype=p.dtype, device=p.device, generator=generator)
            .mul_(2.0 * self.half_width)
            .sub_(self.half_width)
            for p in params
        ]


@dataclass(frozen=True)
class ScaleInvariant:
    """u = x * z with z drawn from ``law`` and x the parameters themselves (2406.03682, Thm. 4)."""

    law: Law

    def sample(self, params: Sequence[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
        draws = self.law.sample(params, generator)
        return [z * p.detach() for z, p in zip(draws, params, strict=True)]
