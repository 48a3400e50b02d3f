"""Optimizers as users bring them: on their own base classes, honest or not about what they cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sharpbench.optim import SAM, PreSAM
from sharpbench.optim.gradients import Gradients


class Foreign(Optimizer):
    """Takes the base first, and shares its groups."""

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        super().__init__([p for group in base.param_groups for p in group["params"]], {})
        self.base, self.rho = base, rho
        self.param_groups, self.state = base.param_groups, base.state

    @property
    def params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state


class TwoGradients(Foreign):
    """SAM that says nothing of what it costs."""

    @torch.no_grad()
    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        with torch.enable_grad():
            loss: Tensor = closure()
        norm = torch.stack([p.grad.norm() for p in self.params if p.grad is not None]).norm()
        saved = [p.clone() for p in self.params]
        for p in self.params:
            if p.grad is not None:
                p.add_(p.grad * (self.rho / norm))
        with torch.enable_grad():
            closure()
        for p, value in zip(self.params, saved, strict=True):
            p.copy_(value)
        self.base.step()
        return loss.detach()


class SaysOne(TwoGradients):
    """Claims one gradient a step."""

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        super().__init__(base, rho)
        self.gradient_evaluations = 0

    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        self.gradient_evaluations += 1
        return super().step(closure)


class SaysTwo(SaysOne):
    """Claims the two that it takes."""

    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        self.gradient_evaluations += 1
        return super().step(closure)


class EverySecond(TwoGradients):
    """The second gradient in every other step only; counts in a state that it saves."""

    taken = 0

    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        self.taken += 1
        if self.taken % 2:
            return super().step(closure)
        with torch.enable_grad():
            loss: Tensor = closure()
        self.base.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "taken"})
        self.taken = state_dict["taken"]


class OwnBackward(Foreign):
    """Differentiates the examples' losses itself: 1 gradient by ``autograd.grad``, and 1 forward pass."""

    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        losses: Callable[[], Tensor] = closure.losses
        with torch.no_grad():
            losses()
        loss = losses().mean()
        for p, g in zip(self.params, torch.autograd.grad(loss, self.params), strict=True):
            p.grad = g
        self.base.step()
        return loss.detach()


class HessianTimesGradient(Foreign):
    """A gradient with its graph, and the Hessian times it: 2 passes back through the network."""

    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        loss = closure.losses().mean()
        gradients = torch.autograd.grad(loss, self.params, create_graph=True)
        product = torch.autograd.grad(gradients, self.params, [g.detach() for g in gradients])
        for p, g, h in zip(self.params, gradients, product, strict=True):
            p.grad = g.detach() + self.rho * h
        self.base.step()
        return loss.detach()


class OutsideTheContract(SAM):
    """A subclass of ours that takes a third gradient without telling its base class."""

    def handed_gradient(self, closures: Any) -> tuple[Tensor, Gradients]:
        with torch.enable_grad():
            closures[0]()
        return super().handed_gradient(closures)


class Ours(PreSAM):
    """A subclass of ours that keeps to the contract."""


class NoLoss(TwoGradients):
    """Returns nothing."""

    def step(self, closure: Any) -> None:  # type: ignore[override]
        super().step(closure)
