"""Gradients that were accumulated outside of a step, told apart from those that a step left behind."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import InvalidInput

# An attribute of the gradient itself: it ends with the gradient, keeps no memory alive, and is seen by
# another optimizer of the same network too (a restart in the same process).
MARK = "_left_by_a_step"


def mark_as_left(params: Iterable[Tensor]) -> None:
    """Note on every ``p.grad`` that a step left it there, in this version of its content."""
    for p in params:
        gradient = p.grad
        if gradient is not None:
            gradient.__dict__[MARK] = gradient._version


def require_nothing_accumulated(params: Iterable[Tensor]) -> None:
    """Raise unless every ``p.grad`` is None, zero, or just what a step left there.

    Autograd accumulates into a new tensor, which has no mark, or in place, which changes the version.

    Raises:
        InvalidInput: it holds something else. The gradients stay as they are.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> weight.sum().backward()
        >>> mark_as_left([weight])
        >>> require_nothing_accumulated([weight])
        >>> weight.sum().backward()
        >>> require_nothing_accumulated([weight])
        Traceback (most recent call last):
        sharpbench.errors.InvalidInput: p.grad already holds a gradient that was computed before step ...
    """
    new = [g for p in params if (g := p.grad) is not None and g.__dict__.get(MARK) != g._version]
    if new and _any_nonzero(new):
        raise InvalidInput(
            "p.grad already holds a gradient that was computed before step (earlier micro-batches of "
            "accumulate_grad_batches or Accelerate?); a sharpness-aware step needs the gradient of the whole "
            "mini-batch at several points, so write opt.step([closure_1, closure_2, ...]) with one closure "
            "for each micro-batch (micro_batches in a suite), or a closure that goes through all of them; "
            "if that gradient is not to count, call opt.zero_grad() before step"
        )


def _any_nonzero(gradients: list[Tensor]) -> bool:
    """Whether an entry differs from zero; NaN does. (One host synchronisation a gradient on a GPU.)"""
    if any(g.layout != torch.strided for g in gradients):
        return True
    norms = torch._foreach_norm(gradients, float("inf"))
    return any(bool(norm != 0) for norm in norms)
