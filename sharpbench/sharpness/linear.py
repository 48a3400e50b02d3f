"""A linear layer whose two derivatives are matrix products and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .fast_matmul import rows_times
from .last_derivative import last_derivative

_shaped = torch.ops.aten._unsafe_view


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y = x Wᵀ + b`` for x of shape (…, k) and W of shape (n, k), as ``F.linear``.

    >>> x, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    >>> torch.allclose(linear(x, weight), torch.nn.functional.linear(x, weight), atol=1e-6)
    True
    """
    found: Tensor = _Linear.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return found


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs, weight)
        shape = [*inputs.shape[:-1], len(weight)]
        # Not a view for autograd: later operations may overwrite it, as in an in-place ReLU.
        return _shaped(rows_times(_rows(inputs), weight, bias), shape)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, slope: Tensor | None) -> Any:
        if slope is None:
            return None, None, None
        inputs, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _LinearGradient.apply(slope, inputs, weight, ctx.needs_input_grad)  # type: ignore[no-untyped-call]
        return _gradient(slope, inputs, weight, ctx.needs_input_grad)


class _LinearGradient(Function):
    """The gradient (gx, gw, gb) of ``<slope, x Wᵀ + b>``, bilinear in (slope, x) and in (slope, W)."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, inputs: Tensor, weight: Tensor, wanted: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope, inputs, weight)
        return _gradient(slope, inputs, weight, wanted)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, by_x: Tensor | None, by_w: Tensor | None, by_b: Tensor | None) -> Any:
        slope, inputs, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        rows = _rows(slope)
        to_slope = to_inputs = to_weight = None
        if needs[0]:
            if by_x is not None:
                to_slope = rows_times(_rows(by_x), weight, by_b)
            if by_w is not None:
                to_slope = rows_times(_rows(inputs), by_w, by_b if by_x is None else None, to_slope)
            if to_slope is not None:
                to_slope = to_slope.view(slope.shape)
            elif by_b is not None:
                to_slope = by_b.expand_as(slope)
        if needs[1] and by_w is not None:
            to_inputs = rows_times(rows, by_w.t()).view(inputs.shape)
        if needs[2] and by_x is not None:
            to_weight = rows_times(rows.t(), _rows(by_x).t())
        return to_slope, to_inputs, to_weight, None


def _gradient(slope: Tensor, inputs: Tensor, weight: Tensor, wanted: Any) -> Any:
    rows = _rows(slope)
    return (
        rows_times(rows, weight.t()).view(inputs.shape) if wanted[0] else None,
        rows_times(rows.t(), _rows(inputs).t()) if wanted[1] else None,
        rows.sum(0) if wanted[2] else None,
    )


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
