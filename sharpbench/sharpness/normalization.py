"""BatchNorm in eval mode: an affine map, and a second derivative in as few passes as one needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .last_derivative import last_derivative

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def is_foldable(module: nn.Module) -> bool:
    """Whether :func:`normalize` gives what the module's own ``forward`` would in eval mode."""
    return type(module) in _BATCH_NORMS and getattr(module, "running_mean", None) is not None


def normalize(module: nn.Module, inputs: Tensor) -> Tensor:
    """``y = (x - mean) r w + b`` with ``r = 1 / sqrt(var + eps)``: what eval mode computes, exactly.

    The generic operator also differentiates statistics that are constant here, at about twice the cost.

    >>> layer, rows = nn.BatchNorm1d(3).eval(), torch.randn(5, 3)
    >>> torch.allclose(normalize(layer, rows), layer(rows), atol=1e-6)
    True
    """
    mean: Tensor = module.get_buffer("running_mean")
    inverse = (module.get_buffer("running_var") + module.eps).rsqrt()  # type: ignore[operator]
    weight = module.weight if isinstance(module.weight, Tensor) else torch.ones_like(mean)
    bias = module.bias if isinstance(module.bias, Tensor) else torch.zeros_like(mean)
    found: Tensor = _Affine.apply(inputs, weight, bias, mean, inverse)  # type: ignore[no-untyped-call]
    return found


class _Affine(Function):
    """``y = x a + (b - mean a)``, ``a = r w``, by channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, mean, inverse)
        scale = weight * inverse
        return torch.addcmul(_wide(bias - mean * scale, x), x, _wide(scale, x))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        wanted = ctx.needs_input_grad[:3]
        return *_AffineGradient.apply(slope, *ctx.saved_tensors, wanted), None, None  # type: ignore[no-untyped-call]


class _AffineGradient(Function):
    """``gx = slope a``, ``gw = r (sum slope x - mean sum slope)``, ``gb = sum slope``."""

    @staticmethod
    def forward(
        ctx: Any, slope: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, wanted: Any
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope, x, weight, mean, inverse)
        total = slope.sum(_others(slope)) if wanted[1] or wanted[2] else None
        return (
            slope * _wide(weight * inverse, slope) if wanted[0] else None,
            inverse * (_inner(slope, x) - mean * total) if wanted[1] and total is not None else None,
            total if wanted[2] else None,
        )

    @staticmethod
    @last_derivative
    def backward(ctx: Any, by_x: Tensor | None, by_w: Tensor | None, by_b: Tensor | None) -> Any:
        slope, x, weight, mean, inverse = ctx.saved_tensors
        to_slope = to_x = to_weight = None
        if by_w is not None:
            scale = by_w * inverse
            shift = -mean * scale if by_b is None else by_b - mean * scale
            to_slope = torch.addcmul(_wide(shift, x), x, _wide(scale, x))
            to_x = slope * _wide(scale, slope) if ctx.needs_input_grad[1] else None
        elif by_b is not None:
            to_slope = _wide(by_b, slope).expand_as(slope).clone()
        if by_x is not None:
            scale = _wide(weight * inverse, by_x)
            to_slope = by_x * scale if to_slope is None else to_slope.addcmul_(by_x, scale)
            to_weight = inverse * _inner(by_x, slope) if ctx.needs_input_grad[2] else None
        return to_slope, to_x, to_weight, None, None, None


def _others(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _wide(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(_others(a))
