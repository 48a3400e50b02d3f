"""Optimizer steps without torch's hooks and profiling around them, while nobody watches."""

from __future__ import annotations

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def is_watched(optimizer: Optimizer) -> bool:
    """Whether step hooks are registered, on this optimizer or on all, or a profiler runs."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    )


def step_base(optimizer: Optimizer) -> None:
    """``optimizer.step()``.

    torch wraps the ``step`` of every class for hooks and for its profiler, which on a small network takes
    as long as the update itself. With neither at work the method underneath does the same. A ``step`` that
    somebody put on the object (a learning-rate scheduler does) is left to run.
    """
    step = type(optimizer).step
    inner = getattr(step, "__wrapped__", None)
    if (
        inner is None
        or not getattr(step, "hooked", False)
        or "step" in vars(optimizer)
        or is_watched(optimizer)
    ):
        optimizer.step()
    else:
        inner(optimizer)
