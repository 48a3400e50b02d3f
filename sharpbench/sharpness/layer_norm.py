"""LayerNorm whose second derivative is made of its first one's kernel and a few multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .last_derivative import last_derivative

_gradient = torch.ops.aten.native_layer_norm_backward


def layer_norm(
    inputs: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """``y = w (x - mean) r + b`` with ``r = 1 / sqrt(var + eps)`` over the last dimensions, of this shape.

    torch writes the second derivative as some thirty passes over the activations.

    >>> x = torch.randn(5, 3)
    >>> torch.allclose(layer_norm(x, (3,), None, None, 1e-5), torch.nn.functional.layer_norm(x, (3,)))
    True
    """
    found: Tensor = _LayerNorm.apply(inputs, weight, bias, list(shape), eps)  # type: ignore[no-untyped-call]
    return found


class _LayerNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: list[int], eps: float
    ) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.shape = shape
        y, mean, inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None) -> Any:
        if slope is None:
            return None, None, None, None, None
        x, weight, bias, mean, inverse = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        if torch.is_grad_enabled():
            found = _LayerNormGradient.apply(slope, x, weight, bias, mean, inverse, ctx.shape, wanted)  # type: ignore[no-untyped-call]
        else:
            found = _gradient(slope, x, ctx.shape, mean, inverse, weight, bias, wanted)
        return *found, None, None


class _LayerNormGradient(Function):
    """``gx = P(w slope)``, ``gw = sum slope n``, ``gb = sum slope``; ``n = (x - mean) r`` and

        P(z) = r (z - <z> - n <z n>),     <·> the mean over the features of an example,

    which is the derivative of n by x, a symmetric matrix.
    """

    @staticmethod
    def forward(
        ctx: Any,
        slope: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        shape: list[int],
        wanted: list[bool],
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.shape = shape
        size = prod(shape)
        normal = (x - mean).mul_(inverse).reshape(-1, size)
        pull = slope.reshape(-1, size) * normal
        if weight is not None:
            pull.mul_(weight.reshape(size))
        pull = pull.mean(1, keepdim=True).mul_(inverse.view(-1, 1))  # r <g n>
        ctx.save_for_backward(slope, x, weight, mean, inverse, normal, pull)
        return _gradient(slope, x, shape, mean, inverse, weight, bias, wanted)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, by_x: Tensor | None, by_w: Tensor | None, by_b: Tensor | None) -> Any:
        """With ``u = by_x``, ``g = w slope``, the derivative of ``<u, P(g)> + <by_w, gw> + <by_b, gb>``:

        by slope:  w P(u) + by_w n + by_b
        by w:      sum slope P(u)
        by x:      P(slope by_w - r <g n> u - r <u n> g) - r n <g P(u)>
        """
        slope, x, weight, mean, inverse, normal, pull = ctx.saved_tensors
        size = prod(ctx.shape)
        flat = (-1, size)
        slopes, scale = slope.reshape(flat), inverse.view(-1, 1)
        w, a, b = (None if t is None else t.reshape(size) for t in (weight, by_w, by_b))

        def project(z: Tensor) -> Tensor:
            only_x = [True, False, False]
            found: Tensor = _gradient(z.view(x.shape), x, ctx.shape, mean, inverse, None, None, only_x)[0]
            return found.view(flat)

        to_slope = to_x = to_weight = last = None
        if a is not None:
            to_slope = normal * a if b is None else torch.addcmul(b, normal, a)
        elif b is not None:
            to_slope = b.expand_as(slopes)
        inner = a
        if by_x is not None:
            u = by_x.reshape(flat)
            turned = project(u)
            pairs = slopes * turned
            to_weight = pairs.sum(0) if ctx.needs_input_grad[2] else None
            last = (pairs.mean(1, keepdim=True) if w is None else (pairs @ w).div_(size)[:, None]).mul_(scale)
            if to_slope is None:
                to_slope = turned if w is None else turned.mul_(w)
            elif w is None:
                to_slope = turned.add_(to_slope)
            else:
                to_slope = torch.addcmul(to_slope, turned, w)
            # z = slope (by_w - r <u n> w) - r <g n> u
            along = (u * normal).mean(1, keepdim=True).mul_(scale)
            if w is None:
                inner = -along if a is None else a - along
            else:
                inner = -along * w if a is None else torch.addcmul(a, along, w, value=-1)
        if ctx.needs_input_grad[1] and inner is not None:
            z = slopes * inner
            if by_x is not None:
                z.addcmul_(u, pull, value=-1)
            to_x = project(z)
            if last is not None:
                to_x.addcmul_(normal, last, value=-1)
            to_x = to_x.view(x.shape)
        return (
            None if to_slope is None else to_slope.view(slope.shape),
            to_x,
            None if to_weight is None or weight is None else to_weight.view(weight.shape),
            None,
            None,
            None,
            None,
            None,
        )
