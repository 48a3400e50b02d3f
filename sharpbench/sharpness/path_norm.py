"""The path norm of chains of linear, convolutional, pooling and piecewise linear layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .estimate import Estimate
from .surface import LossSurface

LINEAR = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip
# Layers that are the identity, or a choice among their inputs, where every input is at least 0.
PASSING = (
    nn.ReLU, nn.LeakyReLU, nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.Dropout3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d, nn.Sequential,
)  # fmt: skip
AVERAGING = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d
)  # fmt: skip
KNOWN: tuple[type[nn.Module], ...] = (*LINEAR, *PASSING, *AVERAGING)


def path_norm(surface: LossSurface) -> Estimate:
    """``sqrt(sum over paths of prod w²)`` from the inputs to the outputs (Neyshabur et al. 2015).

    The root of the summed outputs, in float64, of the network with every weight squared, at an input of ones.
    The fixed weights ``1/k`` of average pooling are squared like the others; max pooling takes the largest of
    its inputs. Biases start paths of their own. The norm is that of the whole network, whatever ``params``.

    Undefined (nan, with the reason) where the layers are not a chain that is known to carry squared weights:
    normalisation, attention, modules with a ``forward`` or hooks of their own, parametrised weights.

    Example:
        >>> model = nn.Sequential(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(1, 1, bias=False))
        >>> with torch.no_grad():
        ...     _ = model[2].weight.fill_(4.0)
        >>> surface = LossSurface(model, nn.functional.mse_loss, (torch.ones(1, 1, 2), torch.zeros(1, 1)))
        >>> round(path_norm(surface).value ** 2, 12)  # two paths of (4 / 2)²
        8.0
    """
    strange = sorted({reason for m in surface.model.modules() if (reason := _strange(m))})
    if strange:
        return Estimate.undefined("path_norm", f"no path norm through {', '.join(strange)}")
    inputs = next(iter(surface.batches)).inputs
    if not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
        return Estimate.undefined("path_norm", "no path norm where the inputs are not one floating tensor")
    squared = copy.deepcopy(surface.model).double().eval()
    for module in squared.modules():
        if isinstance(module, AVERAGING):
            vars(module)["forward"] = _squared_average(module, module.forward)
    with torch.no_grad():
        for p in squared.parameters():
            p.square_()
        total = float(squared(torch.ones_like(inputs[:1], dtype=torch.float64)).sum())
    if not math.isfinite(total):
        return Estimate.undefined("path_norm", "the squared weights overflow")
    return Estimate.exact("path_norm", math.sqrt(max(total, 0.0)))


def _strange(module: nn.Module) -> str:
    """Why squared weights are not known to pass through a module; empty where they are."""
    name = type(module).__name__
    if hasattr(module, "parametrizations"):
        return f"{name} with parametrised weights"
    base = next((known for known in KNOWN if isinstance(module, known)), None)
    if base is None:
        return name
    own = type(module).forward is not base.forward or "forward" in vars(module)
    own_call = getattr(type(module), "_conv_forward", None) is not getattr(base, "_conv_forward", None)
    if own or own_call:
        return f"{name} with a forward of its own"
    if module._forward_hooks or module._forward_pre_hooks:
        return f"{name} with a forward hook"
    return ""


def _squared_average(module: nn.Module, average: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """Average pooling with its weights 1/k squared: the average, divided by k once more."""

    def forward(x: Tensor) -> Tensor:
        found: Tensor = average(x)
        return found / _window_sizes(module, x, found)

    return forward


def _window_sizes(module: nn.Module, x: Tensor, found: Tensor) -> Tensor:
    """The divisor k of each output of an average pooling, shaped to broadcast against the outputs."""
    rank = 3 if isinstance(module, nn.AvgPool3d | nn.AdaptiveAvgPool3d) else 2
    rank = 1 if isinstance(module, nn.AvgPool1d | nn.AdaptiveAvgPool1d) else rank
    sides, outputs = x.shape[-rank:], found.shape[-rank:]
    if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d):
        size = torch.ones((), dtype=x.dtype)
        for side, out in zip(sides, outputs, strict=True):
            i = torch.arange(out)
            ends, starts = ((i + 1) * side + out - 1) // out, i * side // out
            size = size[..., None] * (ends - starts).to(x.dtype)
        return size.to(x.device)
    assert isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d)
    override = getattr(module, "divisor_override", None)
    if override:
        return torch.full((), float(override), dtype=x.dtype, device=x.device)
    # The number of cells under each window, by the pooling of ones without a division: padding counts where
    # the layer says so, and what ceil_mode adds beyond it never does.
    padding = _each(module.padding, rank)
    ones = torch.ones((1, 1, *sides), dtype=x.dtype, device=x.device)
    if module.count_include_pad:
        ones = F.pad(ones, [side for pad in reversed(padding) for side in (pad, pad)], value=1.0)
        padding = (0,) * rank
    kernel, stride = _each(module.kernel_size, rank), _each(module.stride, rank)
    if rank == 1:
        ones, kernel, stride, padding = ones[..., None, :], (1, *kernel), (1, *stride), (0, *padding)
    pool = F.avg_pool3d if rank == 3 else F.avg_pool2d
    size = pool(ones, kernel, stride, padding, module.ceil_mode, True, 1)
    size = size.reshape(size.shape[-rank:])
    # Explicit padding can add windows that start beyond the input, which the layer leaves out.
    return size[tuple(slice(0, out) for out in outputs)]


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * rank
