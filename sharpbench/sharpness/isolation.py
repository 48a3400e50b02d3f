"""Isolation: a model measured in eval mode and left exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_FOLDABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def isolated(model: nn.Module, measured: Sequence[Tensor], fold_batch_norm: bool) -> Iterator[None]:
    """Evaluate ``model`` in eval mode with only ``measured`` requiring gradients; undo it all after.

    Restored, also when an exception passes: every module's ``training`` flag, buffer *values*, each
    parameter's ``requires_grad`` and ``grad``, and the random state of torch, numpy and Python. While
    inside: the math attention kernel (the fused ones have no second derivative), no autocast, and
    eval-mode BatchNorm as an affine map where ``fold_batch_norm``.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    device = measured[0].device
    wanted = {id(p) for p in measured}
    with ExitStack() as stack:
        stack.enter_context(_random_state(device))
        stack.callback(_restore, flags, buffers, parameters)
        for module, _ in flags:
            # The flag itself, not .eval(): overridden train()/eval() may merge or rewrite weights.
            module.training = False
        for p, _, _ in parameters:
            p.requires_grad_(id(p) in wanted)
        if fold_batch_norm:
            stack.enter_context(_affine_batch_norm(model))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        fast_path = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def has_foldable_batch_norm(model: nn.Module) -> bool:
    """Whether any BatchNorm would be expressed as an affine map while measuring."""
    return any(_is_foldable(module) for module in model.modules())


def _restore(
    flags: list[tuple[nn.Module, bool]],
    buffers: list[tuple[Tensor, Tensor]],
    parameters: list[tuple[nn.Parameter, bool, Tensor | None]],
) -> None:
    for module, training in flags:
        module.training = training
    for buffer, value in buffers:
        buffer.data.copy_(value)
    for p, requires_grad, grad in parameters:
        p.requires_grad_(requires_grad)
        if p.grad is not grad:
            p.grad = grad


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


def _is_foldable(module: nn.Module) -> bool:
    # Exact types only: a subclass may do more; an instance whose forward is patched certainly does.
    return (
        type(module) in _FOLDABLE
        and getattr(module, "running_mean", None) is not None
        and "forward" not in vars(module)
    )


@contextmanager
def _affine_batch_norm(model: nn.Module) -> Iterator[None]:
    """``y = x a + b`` with ``a = w / sqrt(var + eps)``, ``b = bias - mean a``: equal in eval mode.

    The generic operator's double backward costs about twice as much.
    """
    folded = [module for module in model.modules() if _is_foldable(module)]
    try:
        for module in folded:
            vars(module)["forward"] = partial(_affine_forward, module)
        yield
    finally:
        for module in folded:
            vars(module).pop("forward", None)


def _affine_forward(module: nn.Module, inputs: Tensor) -> Tensor:
    mean: Tensor = module.get_buffer("running_mean")
    variance: Tensor = module.get_buffer("running_var")
    scale = (variance + module.eps).rsqrt()  # type: ignore[operator]
    weight, bias = module.weight, module.bias
    if isinstance(weight, Tensor):
        scale = scale * weight
    shift = -mean * scale
    if isinstance(bias, Tensor):
        shift = shift + bias
    shape = [1, -1] + [1] * (inputs.ndim - 2)
    return inputs * scale.view(shape) + shift.view(shape)
