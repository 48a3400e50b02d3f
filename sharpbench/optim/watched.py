"""Optimizer steps without torch's hooks and profiling around them, while nobody watches."""

from __future__ import annotations

import inspect

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from ..errors import InvalidInput


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


def require_step_without_closure(optimizer: Optimizer) -> None:
    """Raise InvalidInput for a base that evaluates the loss itself, as LBFGS does."""
    try:
        parameters = inspect.signature(type(optimizer).step).parameters.values()
    except (TypeError, ValueError):  # a step in C: let it be tried
        return
    needed = [
        p.name
        for p in list(parameters)[1:]
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    if needed:
        raise InvalidInput(
            f"{type(optimizer).__name__} can't be the base: its step needs {', '.join(needed)}, but a base "
            "steps on the one gradient that it is handed (use one whose step() needs no closure, such as SGD)"
        )
