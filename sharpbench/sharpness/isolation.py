"""Isolation: a model measured in eval mode and left exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .layers import LayerForm, layers_as


@contextmanager
def isolated(model: nn.Module, measured: Sequence[Tensor], form: LayerForm) -> Iterator[None]:
    """Evaluate ``model`` in eval mode with only ``measured`` requiring gradients; undo it all after.

    Restored, also when an exception passes: every module's ``training`` flag, buffer *values*, each
    parameter's ``requires_grad`` and ``grad``, and the random state of torch, numpy and Python. While
    inside: the math attention kernel (the fused ones have no second derivative), no sparse gradients of
    embeddings (they have none either), no autocast, and layers and torch's functions evaluated in the
    given form.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    sparse = [m for m, _ in flags if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
    device = measured[0].device
    wanted = {id(p) for p in measured}
    with ExitStack() as stack:
        stack.enter_context(_random_state(device))
        stack.callback(_restore, flags, buffers, parameters)
        for embedding in sparse:
            stack.callback(setattr, embedding, "sparse", True)
            embedding.sparse = False
        for module, _ in flags:
            # The flag itself, not .eval(): overridden train()/eval() may merge or rewrite weights.
            module.training = False
        for p, _, _ in parameters:
            p.requires_grad_(id(p) in wanted)
        stack.enter_context(layers_as(model, form))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        fast_path = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


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
