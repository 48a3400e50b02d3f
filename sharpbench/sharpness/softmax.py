"""Softmax and its logarithm with second derivatives in as few passes as one needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .last_derivative import last_derivative

_derivative = torch.ops.aten._softmax_backward_data


def softmax(inputs: Tensor, dim: int) -> Tensor:
    """``p = exp(x) / sum exp(x)`` along ``dim``, as ``torch.softmax``.

    >>> x = torch.randn(2, 3)
    >>> torch.equal(softmax(x, 1), x.softmax(1))
    True
    """
    found: Tensor = _Softmax.apply(inputs, dim)  # type: ignore[no-untyped-call]
    return found


def log_softmax(inputs: Tensor, dim: int) -> Tensor:
    """``y = x - log sum exp(x)`` along ``dim``, as ``torch.log_softmax``.

    >>> x = torch.randn(2, 3)
    >>> torch.equal(log_softmax(x, 1), x.log_softmax(1))
    True
    """
    found: Tensor = _LogSoftmax.apply(inputs, dim)  # type: ignore[no-untyped-call]
    return found


class _Softmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.dim = dim
        p = torch.softmax(x, dim)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None) -> Any:
        if slope is None:
            return None, None
        (p,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _SoftmaxGradient.apply(slope, p, ctx.dim), None  # type: ignore[no-untyped-call]
        return _derivative(slope, p, ctx.dim, p.dtype), None


class _SoftmaxGradient(Function):
    """``gx = p (slope - <p, slope>)``."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, p: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        ctx.save_for_backward(p, slope - (slope * p).sum(dim, keepdim=True))
        return _derivative(slope, p, dim, p.dtype)  # type: ignore[no-any-return]

    @staticmethod
    @last_derivative
    def backward(ctx: Any, by_x: Tensor) -> Any:
        p, centred = ctx.saved_tensors
        to_slope = by_x * p
        away = by_x - to_slope.sum(ctx.dim, keepdim=True)
        torch.mul(p, away, out=to_slope)
        # To p exact up to a constant along dim, which softmax, the one that made p, does not pass on.
        return to_slope, away.mul_(centred), None


class _LogSoftmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.dim = dim
        y = torch.log_softmax(x, dim)
        ctx.save_for_backward(y, y.exp())
        return y

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None) -> Any:
        if slope is None:
            return None, None
        y, p = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _LogSoftmaxGradient.apply(slope, y, p, ctx.dim), None  # type: ignore[no-untyped-call]
        return torch.addcmul(slope, p, slope.sum(ctx.dim, keepdim=True), value=-1), None


class _LogSoftmaxGradient(Function):
    """``gx = slope - p sum slope`` with ``p = exp(y)``."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, y: Tensor, p: Tensor, dim: int) -> Tensor:
        ctx.dim = dim
        weighted = p * slope.sum(dim, keepdim=True)
        ctx.save_for_backward(p, weighted)
        return slope - weighted

    @staticmethod
    @last_derivative
    def backward(ctx: Any, by_x: Tensor) -> Any:
        p, weighted = ctx.saved_tensors
        to_y = by_x * p
        to_slope = by_x - to_y.sum(ctx.dim, keepdim=True)
        torch.mul(by_x, weighted, out=to_y)
        return to_slope, to_y.neg_(), None, None
