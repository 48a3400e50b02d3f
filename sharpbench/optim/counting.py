"""Counting gradients where they pass, whatever an optimizer says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class GradientCounter:
    """Counts the gradients of whole mini-batches that are evaluated while a step is under way.

    Every pass of autograd that goes back through the network's outputs counts once: ``backward`` in a
    closure, ``backward`` or ``torch.autograd.grad`` that an optimizer calls itself, and the second pass of a
    Hessian-vector product. A pass over a part of the mini-batch counts as that part of a gradient. A
    forward pass alone (a closure's loss under ``torch.no_grad``) counts nothing. Under transforms of
    ``torch.func``, where no hook can follow, a forward pass counts as one gradient.

    Attributes:
        total: gradients so far.

    Example:
        >>> model, x = nn.Linear(2, 3), torch.ones(4, 2)
        >>> counter = GradientCounter()
        >>> handle = counter.follow(model)
        >>> with counter.step(examples=4):
        ...     model(x).sum().backward()
        ...     gradient = torch.autograd.grad(model(x[:2]).sum(), model.parameters())
        ...     with torch.no_grad():
        ...         loss = model(x).sum()
        >>> counter.total
        1.5
    """

    def __init__(self) -> None:
        self.total = 0.0
        self._examples = 0

    def follow(self, model: nn.Module) -> torch.utils.hooks.RemovableHandle:
        """Watch the outputs of ``model`` until the handle is removed."""
        return model.register_forward_hook(lambda module, inputs, outputs: self.watch(outputs))

    @contextmanager
    def step(self, examples: int) -> Iterator[None]:
        """A step on a mini-batch of so many examples; outside of it nothing counts."""
        self._examples = examples
        try:
            yield
        finally:
            self._examples = 0

    @contextmanager
    def one_gradient(self, examples: int) -> Iterator[None]:
        """What runs in the block is one gradient of so many examples, however it is evaluated."""
        whole, self._examples = self._examples, 0
        try:
            yield
        finally:
            self._examples = whole
        if whole:
            self.total += examples / whole

    def watch(self, outputs: Tensor) -> None:
        """Count what goes back through these outputs, whose first dimension is that of the examples."""
        if not self._examples or not isinstance(outputs, Tensor) or not outputs.requires_grad:
            return
        share = len(outputs) / self._examples
        if torch._C._functorch.is_functorch_wrapped_tensor(outputs):
            self.total += share
            return

        def passed(gradient: Tensor) -> None:
            if self._examples:
                self.total += share

        outputs.register_hook(passed)
