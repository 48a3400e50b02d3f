"""A convolution whose second derivative is made of the kernels that its first one uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .last_derivative import last_derivative

_CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
_derivatives = torch.ops.aten.convolution_backward


def is_plain_convolution(module: nn.Module) -> bool:
    """Whether :func:`convolve` gives what the module's own ``forward`` would."""
    return (
        type(module) in _CONVOLUTIONS  # exact types: a subclass may do more
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def convolve(module: nn.Module, inputs: Tensor, channels_last: bool = False) -> Tensor:
    """``module(inputs)``, for a module that :func:`is_plain_convolution`.

    torch writes the weights' part of a convolution's second derivative as a convolution whose kernel is a
    whole image, several times slower than the gradient's own kernels; and where channels are few, NCHW memory
    makes the inputs' gradient slow.

    Args:
        module: a convolution.
        inputs: of shape ``(n, channels, …)``.
        channels_last: keep two-dimensional images in NHWC memory; later layers follow.

    >>> layer, images = nn.Conv2d(3, 2, 3), torch.randn(4, 3, 5, 5)
    >>> torch.allclose(convolve(layer, images), layer(images), atol=1e-6)
    True
    """
    if inputs.ndim != _CONVOLUTIONS[type(module)]:  # one example without a batch dimension
        return type(module).forward(module, inputs)  # type: ignore[no-any-return]
    if channels_last and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    geometry = (module.stride, module.padding, module.dilation, False, [0] * (inputs.ndim - 2), module.groups)
    found: Tensor = _Convolution.apply(inputs, module.weight, module.bias, geometry)  # type: ignore[no-untyped-call]
    return found


class _Convolution(Function):
    """``y = x * w + b``."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Any) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.geometry = geometry
        return torch.convolution(inputs, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        wanted = list(ctx.needs_input_grad[:3])
        return *_ConvolutionGradient.apply(slope, *ctx.saved_tensors, ctx.geometry, wanted), None  # type: ignore[no-untyped-call]


class _ConvolutionGradient(Function):
    """The gradient (gx, gw, gb) of ``<slope, x * w + b>``, bilinear in (slope, x) and in (slope, w)."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, inputs: Tensor, weight: Tensor, geometry: Any, wanted: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope, inputs, weight)
        ctx.geometry = geometry
        return _derivatives(slope, inputs, weight, [weight.shape[0]], *geometry, wanted)

    @staticmethod
    @last_derivative
    def backward(ctx: Any, by_x: Tensor | None, by_w: Tensor | None, by_b: Tensor | None) -> Any:
        slope, inputs, weight = ctx.saved_tensors
        geometry, needs = ctx.geometry, ctx.needs_input_grad
        to_slope = to_inputs = to_weight = None
        if by_x is not None and _is_channels_last(inputs):
            # After a layer of one channel it may come in NCHW memory: results in both mix badly later on.
            by_x = by_x.contiguous(memory_format=torch.channels_last)
        if needs[0]:
            parts: list[Tensor] = []
            if by_x is not None:
                parts.append(torch.convolution(by_x, weight, None, *geometry))
            if by_w is not None:
                parts.append(torch.convolution(inputs, by_w, None, *geometry))
            if by_b is not None:
                parts.append(by_b.view(1, -1, *[1] * (slope.ndim - 2)).expand_as(slope))
            for part in parts[1:]:
                parts[0].add_(part)
            to_slope = parts[0] if parts else None
        if needs[1] and by_w is not None:
            to_inputs = _derivatives(slope, inputs, by_w, None, *geometry, [True, False, False])[0]
        if needs[2] and by_x is not None:
            to_weight = _derivatives(slope, by_x, weight, None, *geometry, [False, True, False])[1]
        return to_slope, to_inputs, to_weight, None, None


def _is_channels_last(images: Tensor) -> bool:
    """Whether they lie in NHWC memory, and not in NCHW as well."""
    if images.ndim != 4 or images.is_contiguous():
        return False
    return images.is_contiguous(memory_format=torch.channels_last)
