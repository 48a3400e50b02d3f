"""Do the weights come back?"""

from __future__ import annotations

import torch
from torch import Tensor

from .finding import Defect, NotApplicable, promise
from .problem import Change, Trial
from .subject import Subject

STEPS = 5
# What restoring by subtraction leaves in float64; the check of exact restoring is stricter.
ROUNDING = 1e-12


class Interrupted(Exception):
    """What the closure raises when a check interrupts it."""


@promise(
    "weights restored exactly",
    "restored by subtraction ((x + e) - e is not x in floating point), or only after the base step: save a "
    "copy, and copy it back",
)
def restored_exactly(subject: Subject) -> None:
    """When the base optimizer steps, every weight is bit for bit what it was when the step began.

    Checked in float32. Without a base, a step at learning rate zero must change nothing.
    """
    _come_back(subject, gate=False)


@promise(
    "parameters unused in the second pass restored",
    "restoring only the parameters that have a gradient (`if p.grad is None: continue`) after the second "
    "pass: restore all that were perturbed in this step",
)
def unused_restored(subject: Subject) -> None:
    """A parameter that takes part in the first pass only is perturbed, and comes back like the others."""
    _come_back(subject, gate=True)


def _come_back(subject: Subject, gate: bool) -> None:
    trial = Trial(subject, gate=gate, dtype=torch.float32)
    if not trial.has_base:
        trial = Trial(subject, gate=gate, dtype=torch.float32, lr=0.0)
    for index, step in enumerate(trial.run(STEPS)):
        seen = step.at_base[:1] if trial.has_base else [step.after]
        if not seen:
            raise Defect(f"in step {index} the base optimizer did not step")
        for weights in seen:
            if gate:
                _same(weights[-1:], step.before[-1:], f"in step {index} the unused parameter was")
            else:
                _same(weights, step.before, f"in step {index} the weights were")


def _same(found: Tensor, expected: Tensor, what: str) -> None:
    if not torch.equal(found, expected):
        changed = int((found != expected).sum())
        size = (found - expected).abs().max().item()
        raise Defect(f"{what} off by up to {size:.1e} ({changed} of {found.numel()} entries)")


@promise(
    "weights restored when the closure raises",
    "no try/finally around the second pass: one out-of-memory error leaves the network perturbed",
)
def restored_on_error(subject: Subject) -> str:
    """An exception in a pass at perturbed weights reaches the caller with the weights put back."""

    def second(losses: Tensor, number: int) -> Tensor:
        return _interrupt() if number == 1 else losses

    def first(losses: Tensor, number: int) -> Tensor:
        return _interrupt()

    trial = Trial(subject)
    if trial.form == "two steps":
        raise NotApplicable("the caller evaluates between its two steps")
    for index in range(STEPS):
        if _raises(trial, index, second):
            return f"interrupted in the second pass of step {index}"
    _raises(trial, STEPS, first)
    return "interrupted in its only pass"


def _raises(trial: Trial, index: int, change: Change) -> bool:
    before = trial.weights()
    try:
        trial.step(index, change)
    except Interrupted:
        off = (trial.weights() - before).abs().max().item()
        if not off <= ROUNDING:
            raise Defect(f"after the exception the weights are off by up to {off:.1e}") from None
        trial.step(index)
        if not torch.isfinite(trial.weights()).all():
            raise Defect("the step after the exception gives weights that are not finite") from None
        return True
    return False


def _interrupt() -> Tensor:
    raise Interrupted("interrupted by the check")


@promise(
    "a loss that is not finite is survived",
    "NaN arithmetic on the weights themselves (x + NaN - NaN), or a decision on a NaN that raises or loops",
)
def not_finite_survived(subject: Subject) -> str:
    """A NaN or infinite loss, at x or at the perturbed point only, raises nothing, and x is restored bitwise.

    What the base optimizer then does with such a gradient is its own affair, and the training loop's; a
    rule may also leave the step out. Without a base only the absence of exceptions is checked.
    """
    for value in (float("nan"), float("inf")):
        for bad_pass in (0, 1):
            trial = Trial(subject)
            trial.run(2)

            def spoil(losses: Tensor, number: int, bad: int = bad_pass, by: float = value) -> Tensor:
                return losses * by if number >= bad else losses

            step = trial.step(2, spoil)
            where = "everywhere" if bad_pass == 0 else "at the perturbed point"
            if trial.has_base:
                for weights in step.at_base[:1] or [step.after]:
                    _same(weights, step.before, f"with loss {value} {where}, the weights were")
    return "x restored, nothing raised" if trial.has_base else "nothing raised"
