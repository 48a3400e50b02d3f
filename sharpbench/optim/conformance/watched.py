"""A base optimizer that tells when it steps: what stands in the weights then is what the promise is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

KINDS: dict[str, type[Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def base_options(kind: str, lr: float, weight_decay: float, momentum: float = 0.9) -> dict[str, Any]:
    """The constructor's options of that kind of base.

    >>> base_options("sgd", 0.1, 0.0)
    {'lr': 0.1, 'weight_decay': 0.0, 'momentum': 0.9}
    """
    options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    return {**options, "momentum": momentum} if kind == "sgd" else options


def watched_base(kind: str, before_step: Callable[[], None]) -> type[Optimizer]:
    """A class like ``torch.optim.SGD`` (or AdamW) whose instances call ``before_step`` and then step.

    >>> seen = []
    >>> base = watched_base("sgd", lambda: seen.append(1))([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    >>> base.step(), seen
    (None, [1])
    """

    def step(self: Optimizer, closure: Any = None) -> Any:
        before_step()
        return parent.step(self, closure)

    parent = KINDS[kind]
    return type(f"Watched{parent.__name__}", (parent,), {"step": step})
