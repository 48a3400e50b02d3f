"""GELU whose second derivative is two multiplications: its factors are computed with the graph."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .last_derivative import last_derivative

_derivative = torch.ops.aten.gelu_backward


def gelu(inputs: Tensor, approximate: str = "none") -> Tensor:
    """``x Phi(x)``, or with ``approximate="tanh"`` Hendrycks and Gimpel's formula, as ``F.gelu``.

    >>> x = torch.randn(5)
    >>> torch.allclose(gelu(x), torch.nn.functional.gelu(x))
    True
    """
    found: Tensor = _Gelu.apply(inputs, approximate)  # type: ignore[no-untyped-call]
    return found


class _Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, approximate: str) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.approximate = approximate
        # The derivative is a factor of every pass that follows: computed once.
        one = torch.ones((), dtype=x.dtype, device=x.device).expand_as(x)
        ctx.save_for_backward(x, _derivative(one, x, approximate=approximate))
        return torch.nn.functional.gelu(x, approximate=approximate)

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None) -> Any:
        if slope is None:
            return None, None
        x, first = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _GeluGradient.apply(slope, x, first, ctx.approximate), None  # type: ignore[no-untyped-call]
        return slope * first, None


class _GeluGradient(Function):
    """``slope gelu'(x)``."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, x: Tensor, first: Tensor, approximate: str) -> Tensor:
        second = _second_exact(x) if approximate == "none" else _second_tanh(x)
        ctx.save_for_backward(first, second.mul_(slope))
        return slope * first

    @staticmethod
    @last_derivative
    def backward(ctx: Any, by_x: Tensor) -> Any:
        first, second = ctx.saved_tensors
        return by_x * first, by_x * second, None, None


def _second_exact(x: Tensor) -> Tensor:
    """``phi(x) (2 - x²)``."""
    square = x * x
    return (square * -0.5).exp_().mul_(square.neg_().add_(2)).mul_(1 / math.sqrt(2 * math.pi))


def _second_tanh(x: Tensor) -> Tensor:
    """``(1 - t²) (u' + x (u'' / 2 - t u'²))``: of ``x (1 + t) / 2``, ``t = tanh u``, ``u = c (x + k x³)``."""
    c, k = math.sqrt(2 / math.pi), 0.044715
    square = x * x
    t = (x * (square * k + 1)).mul_(c).tanh_()
    slope = (square * (3 * k) + 1).mul_(c)  # u'
    # x u'' / 2 = 3 c k x²
    return (slope + square.mul_(3 * c * k) - x * t * slope.square()).mul_(1 - t * t)
