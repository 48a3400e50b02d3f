"""What an optimizer that isn't ours really evaluates, whatever it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InvalidInput
from ..optim import OPTIMIZERS
from ..spec import OptimizerSpec, TaskSpec

Closure = Callable[[], Tensor]


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


class Count:
    """The gradients of a training: counted for optimizers from elsewhere, their own word for registered ones.

    The word of registered ones is checked against a count by the conformance suite; that of others is
    compared with the count after every epoch.

    Attributes:
        said: what the optimizer says it evaluated, NaN where it says nothing.

    Args:
        model: the network, not compiled.
        task: whether the network is compiled: then hooks on its modules would be compiled too, and
            closures report to ``counter`` themselves.
        method: whose gradients.
    """

    def __init__(self, model: nn.Module, task: TaskSpec, method: OptimizerSpec) -> None:
        self.name = method.name
        self.counter = None if method.name in OPTIMIZERS else GradientCounter()
        self.by_closures = task.compile != "no"
        self._handle = None
        if self.counter is not None and not self.by_closures:
            self._handle = self.counter.follow(model)

    def begin(self, optimizer: Optimizer, counted: float = 0.0, said: float = 0.0) -> None:
        """Go on from earlier numbers, when the optimizer has its state."""
        self.optimizer = optimizer
        self._said_before = claimed(optimizer)
        self.said = said
        if self.counter is not None:
            self.counter.total = counted

    def step(self, parts: Sequence[Closure], examples: int) -> Tensor:
        """The optimizer's step on a mini-batch of so many examples, given as one closure or several.

        Raises:
            InvalidInput: an optimizer from elsewhere returns no loss.
        """
        given: Any = parts if len(parts) > 1 else parts[0]
        if self.counter is None:
            return cast(Tensor, self.optimizer.step(given))
        with self.counter.step(examples):
            loss = cast(Tensor | float | None, self.optimizer.step(given))
        if loss is None:
            raise InvalidInput(
                f"{self.name}: step(closure) must return the loss of its first pass, as torch's optimizers "
                "do, but returned None"
            )
        now = claimed(self.optimizer)
        self.said += math.nan if now is None or self._said_before is None else now - self._said_before
        self._said_before = now
        return torch.as_tensor(loss).detach()

    @property
    def total(self) -> float:
        """Gradients so far."""
        return (claimed(self.optimizer) or 0.0) if self.counter is None else self.counter.total

    def contradiction(self, steps: int) -> str:
        """How the optimizer's word differs from the count after ``steps`` steps; empty if it doesn't."""
        if self.counter is None or math.isnan(self.said) or abs(self.counter.total - self.said) < 0.5:
            return ""
        return (
            f"gradient_evaluations of {self.name} says {self.said / steps:.2f} a step, but "
            f"{self.counter.total / steps:.2f} were evaluated: tables show what was evaluated"
        )

    def close(self) -> None:
        """Leave the network as it was."""
        if self._handle is not None:
            self._handle.remove()


def claimed(optimizer: Optimizer) -> float | None:
    """What an optimizer says of itself: whole gradients, and those of single examples; None: nothing."""
    try:
        said = float(optimizer.gradient_evaluations)  # type: ignore[attr-defined]
    except Exception:  # no such attribute, or somebody else's property
        return None
    return said + float(getattr(optimizer, "example_gradients", 0))
