"""Backward passes that nothing may differentiate further."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def last_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A ``backward`` that refuses to be part of a graph.

    torch's ``once_differentiable`` puts a node in the graph that raises, but off the way to any input: a
    derivative by given inputs passes it by, and silently lacks a term.

    Raises:
        RuntimeError: (at a call) with ``create_graph=True``.
    """

    @wraps(backward)
    def guarded(ctx: Any, *slopes: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the form of this layer that is used while measuring has no third derivative: not implemented"
            )
        return backward(ctx, *slopes)

    return guarded
