"""Does the perturbation go up the gradient, and as far as rho says?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .finding import Defect, NotApplicable, promise
from .problem import Change, Trial
from .subject import ConstantRadius, Subject

# Steps in which a rule may take its first look away from x, and those looked at for masks.
STEPS = 6
# Small, so that the steps before the first perturbation hardly change the gradient.
RATE = 1e-3
# 1 - |cosine| up to which e counts as along g: single precision leaves 1e-14, a preconditioner that changes
# the length by more than LENGTH leaves more.
ALONG = 1e-9
# Relative; constants added to the norm (1e-12 to 1e-7 in published codes) stay far below.
LENGTH = 1e-3


@dataclass(frozen=True)
class Look:
    """The first evaluation away from x of a step whose first evaluation is at x.

    Attributes:
        e: the perturbation, one vector over all parameters.
        g: the gradient of the mini-batch at x.
        rise: the loss at x + e minus the loss at x.
        mirrored: whether the step also evaluates at x - e.
        step: which.
        sizes: of the parameters.
        optimizer: that took it.
    """

    e: Tensor
    g: Tensor
    rise: float
    mirrored: bool
    step: int
    sizes: list[int]
    optimizer: Any

    @property
    def cosine(self) -> float:
        """Of the angle between e and g."""
        return cosine(self.e, self.g)

    @property
    def pieces(self) -> list[tuple[Tensor, Tensor]]:
        """(e, g) of each parameter."""
        return list(zip(self.e.split(self.sizes), self.g.split(self.sizes), strict=True))


@promise(
    "the perturbation goes uphill",
    "e subtracted instead of added, or computed from a gradient that was negated (maximize, a loss with the "
    "wrong sign)",
)
def uphill(subject: Subject) -> str:
    """A perturbation e made from the gradient g at x has <e, g> > 0, and the loss at x + e is higher.

    Concerns rules with a rho whose first evaluation is at x. Whether e is made from the gradient is seen by
    negating the loss: random perturbations stay the same then. One at x - e beside it is no offence.
    """
    look = _look_of_gradient(subject)
    if not look.cosine > 0:
        if look.mirrored:
            return "looks at x + e and at x - e"
        raise Defect(
            f"the perturbation of step {look.step} has the cosine {look.cosine:.3f} with the gradient"
        )
    if not look.rise > 0:
        raise Defect(
            f"e goes uphill in step {look.step}, but the loss at x + e is {-look.rise:.1e} below that at x"
        )
    return f"cosine {look.cosine:.2f} with the gradient, the loss rises by {look.rise:.1e}"


@promise(
    "a perturbation along the gradient is rho long",
    "no division by the norm of the gradient, a norm taken of each parameter or each group instead of all "
    "together, or rho squared, under a root or multiplied in twice",
)
def rho_long(subject: Subject) -> str:
    """Where e has the direction of g (of the whole vector, or within each parameter), ||e|| = rho.

    Preconditioned and masked rules measure e in another norm, or not by rho alone, and are left out. A
    rule whose length is meant to differ, such as unnormalised SAM's rho ||g||, says so with the class
    attribute ``perturbation_has_length_rho = False``, or a parameter ``normalize=False``.
    """
    if not subject.has_length_rho:
        raise NotApplicable("says that its perturbation is not rho long")
    look = _look_of_gradient(subject)
    rho = _radius(subject, look.optimizer)
    if not rho:
        raise NotApplicable("rho is not a number > 0")
    length = look.e.norm().item()
    own = [e.norm().item() for e, g in look.pieces if g.norm() > 0]
    if 1.0 - abs(look.cosine) > ALONG:
        along = all(1.0 - abs(cosine(e, g)) <= ALONG for e, g in look.pieces if g.norm() > 0)
        same = max(own) - min(own) <= LENGTH * max(own)
        if along and same and len(own) > 1:
            raise Defect(
                f"each of {len(own)} parameters moves by {own[0]:.4g} along its own gradient, together by "
                f"{length:.4g}, and rho is {rho:g}"
            )
        raise NotApplicable("e is not along the gradient: its length is the rule's own matter")
    if _masks(subject):
        raise NotApplicable("e leaves weights out: its length is the rule's own matter")
    if not abs(length - rho) <= LENGTH * rho:
        raise Defect(f"||e|| is {length:.4g} in step {look.step}, rho is {rho:g}{_explained(look, rho)}")
    halves = _look(subject, group_lrs=(RATE, RATE))
    if halves is not None and not abs(halves.e.norm().item() - rho) <= LENGTH * rho:
        raise Defect(
            f"with the parameters in two groups ||e|| is {halves.e.norm().item():.4g}, in one {length:.4g}, "
            f"and rho is {rho:g}"
        )
    return f"||e|| = {length:.4g}"


def cosine(left: Tensor, right: Tensor) -> float:
    """Of two vectors; 0 where one is 0.

    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 0.0]))
    -1.0
    """
    both = (left.norm() * right.norm()).item()
    return (left @ right).item() / both if both else 0.0


def _look_of_gradient(subject: Subject) -> Look:
    """The first perturbation, if it is one that the gradient decides.

    Raises:
        NotApplicable: the rule has no rho, doesn't perturb, or perturbs at random.
    """
    if not subject.has_radius:
        raise NotApplicable("has no rho")
    look = _look(subject)
    if look is None:
        raise NotApplicable("no step evaluates at x first and then away from it")
    try:
        other = _look(subject, lambda losses, number: -losses)
    except Exception:  # a rule may insist on losses > 0
        other = None
    if other is None or not cosine(look.e, other.e) < 0:
        raise NotApplicable("the perturbation does not turn with the gradient: it is random, or another's")
    return look


def _look(
    subject: Subject, change: Change | None = None, group_lrs: tuple[float, float] | None = None
) -> Look | None:
    """The first of ``STEPS`` steps on one mini-batch (memories of gradients are then of this one)."""
    trial = Trial(subject, lr=RATE, group_lrs=group_lrs)
    for index in range(STEPS):
        loss, gradient = _loss_and_gradient(trial)
        torch.manual_seed(index)
        step = trial.step(0, change)
        away = [e.weights - step.before for e in step.evaluations]
        if not away or bool((away[0] != 0).any()):
            return None
        moved = [e for e in away if bool((e != 0).any())]
        if not moved:
            continue
        e = moved[0]
        mirrored = any(bool((e + other).norm() <= 1e-6 * e.norm()) for other in moved[1:])
        after = trial.weights()
        trial.load(step.before + e)
        rise = _loss_and_gradient(trial)[0] - loss
        trial.load(after)
        sizes = [p.numel() for p in trial.parameters]
        return Look(e, gradient, rise, mirrored, index, sizes, trial.optimizer)
    return None


def _loss_and_gradient(trial: Trial) -> tuple[float, Tensor]:
    """Of the first mini-batch at the present weights; ``p.grad`` stays as it is."""
    x, y = trial.batches[0]
    loss = torch.nn.functional.cross_entropy(trial.forward(x), y)
    gradients = torch.autograd.grad(loss, trial.parameters)
    return loss.item(), torch.cat([g.reshape(-1) for g in gradients])


def _masks(subject: Subject) -> bool:
    """Whether some step's perturbation is zero where the gradient is not."""
    trial = Trial(subject, lr=RATE)
    for _ in range(STEPS):
        _, gradient = _loss_and_gradient(trial)
        step = trial.step(0)
        moved = [e.weights - step.before for e in step.evaluations]
        for e in moved:
            if bool((e != 0).any()) and bool(((e == 0) & (gradient.abs() > 1e-9)).any()):
                return True
    return False


def _radius(subject: Subject, optimizer: Any) -> float:
    """Rho as the constructor got it; of our own rules, what their schedule makes of it."""
    own = getattr(type(optimizer), "radius", None)
    if getattr(own, "__module__", "").startswith("sharpbench."):
        return float(optimizer.radius())
    stands = subject.parameters.get("rho_scheduler", ConstantRadius(0.05))
    rho = subject.parameters.get("rho", subject.hyper_parameters.get("rho"))
    if "rho" not in subject.hyper_parameters and "rho_scheduler" in subject.accepts:
        rho = stands.rho if isinstance(stands, ConstantRadius) else None
    for found in (rho, getattr(optimizer, "rho", None)):
        if isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found):
            return float(found)
    return 0.0


def _explained(look: Look, rho: float) -> str:
    """What the length is instead, where that can be told."""
    length, norm = look.e.norm().item(), look.g.norm().item()
    candidates = {
        " times the norm of the gradient": rho * norm,
        " over the norm of the gradient": rho / norm,
        " twice": 2.0 * rho,
        " halved": 0.5 * rho,
        " under a root": math.sqrt(rho),
        " squared": rho * rho,
    }
    for words, value in candidates.items():
        if abs(length - value) <= LENGTH * value:
            return f": it is rho{words}"
    return ""
