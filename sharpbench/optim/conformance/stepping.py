"""How to make an optimizer take one step: the forms found in the wild, told apart by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

Form = Literal["closure", "gradient first", "pair", "two steps"]

#: in the order in which they are tried
FORMS: tuple[Form, ...] = ("closure", "gradient first", "pair", "two steps")


def take_step(optimizer: Optimizer, closure: Callable[[], Tensor], form: Form) -> Tensor | None:
    """One step in the given form; the loss the optimizer reports, or None where it reports none.

    - ``"closure"``: ``step(closure)``, all evaluations inside;
    - ``"gradient first"``: ``closure()`` and then ``step(closure)``, which evaluates at x + e only
      (pytorch_optimizer's SAM);
    - ``"pair"``: ``step(closure)`` with a closure that returns outputs and loss, and enables gradients
      itself (pytorch_optimizer's GSAM);
    - ``"two steps"``: ``closure()``, ``first_step``, ``closure()``, ``second_step``.
    """
    step: Any = optimizer.step
    if form == "gradient first":
        closure()
        return _loss(step(closure))
    if form == "pair":

        def pair() -> tuple[None, Tensor]:
            with torch.enable_grad():
                return None, closure().detach()

        return _loss(step(pair))
    if form == "two steps":
        two: Any = optimizer
        loss = closure()
        two.first_step(zero_grad=True)
        closure()
        two.second_step(zero_grad=True)
        return loss.detach()
    return _loss(step(closure))


def _loss(result: Any) -> Tensor | None:
    if isinstance(result, tuple):
        result = result[-1] if result else None
    return result if isinstance(result, Tensor) else None


def wants_gradient_first(optimizer: Optimizer, evaluations: int) -> bool:
    """Whether a step that evaluated this often left the gradient at x to its caller.

    The tell-tale: it has a first and a second step, and evaluates only once.
    """
    return evaluations == 1 and hasattr(optimizer, "first_step") and hasattr(optimizer, "second_step")
