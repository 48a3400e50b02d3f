"""What an optimizer that isn't ours really evaluates, whatever it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import InvalidInput
from ..optim import OPTIMIZERS
from ..optim.counting import GradientCounter
from ..spec import OptimizerSpec, TaskSpec

Closure = Callable[[], Tensor]


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
