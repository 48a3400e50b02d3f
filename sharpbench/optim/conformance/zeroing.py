"""What stands in ``p.grad`` before the optimizer's own passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from .finding import Defect, NotApplicable, describe, promise
from .problem import Trial
from .subject import Subject

STEPS, LATER = 3, 12
# Adding to zeros instead of to nothing changes no bit but the sign of a zero.
SAME = 1e-12


@promise(
    "a closure need not zero the gradients",
    "the gradients of the last step or of the first pass are still in p.grad when the closure runs, and its "
    "own are added to them: set p.grad to None before every call of the closure, or raise",
)
def zeroes_itself(subject: Subject) -> str:
    """A closure without ``zero_grad`` gives the same weights, or the optimizer raises or warns.

    An optimizer that evaluates once a step may let gradients add up, as torch's own do.
    """
    zeroing, again, leaving = Trial(subject), Trial(subject), Trial(subject, zeroes=False)
    _within_step(zeroing)
    torch.manual_seed(0)
    several = max(len(step.evaluations) for step in zeroing.run(STEPS)) > 1
    torch.manual_seed(0)
    again.run(STEPS)
    if not torch.equal(zeroing.weights(), again.weights()):
        raise NotApplicable("two equal runs differ: there is nothing to compare with")
    torch.manual_seed(0)
    if said := _noticed(lambda: leaving.run(STEPS)):
        return said
    off = (zeroing.weights() - leaving.weights()).abs().max().item()
    if off <= SAME:
        return "trains the same"
    if not several:
        raise NotApplicable("one evaluation a step: gradients add up as in torch's own optimizers")
    raise Defect(f"after {STEPS} steps the weights are {off:.1e} off those with a closure that zeroes")


@promise(
    "gradients accumulated before step are noticed",
    "p.grad is taken for empty: earlier micro-batches (accumulate_grad_batches, Accelerate) are dropped, or "
    "counted in the first pass only: raise, and say what to write instead",
)
def accumulated_noticed(subject: Subject) -> str:
    """When ``p.grad`` holds the gradient of another mini-batch at ``step``, the optimizer raises or warns.

    An optimizer that evaluates once a step may add to it, as torch's own do, but not drop it.
    """
    plain, accumulating = Trial(subject, zeroes=False), Trial(subject, zeroes=False)
    _within_step(plain)
    before = plain.weights()
    for trial in (plain, accumulating):
        torch.manual_seed(0)
        trial.step(0)
        _drop(trial)
    several = len(plain.step(2).evaluations) > 1
    accumulating.accumulate(1)
    if said := _noticed(lambda: accumulating.step(2)):
        return said
    off = (plain.weights() - accumulating.weights()).abs().max().item()
    for index in range(LATER):  # optimizers that warm up, or use gradients later, show it by then
        for trial in (plain, accumulating):
            _drop(trial)
            trial.step(index)
    later = (plain.weights() - accumulating.weights()).abs().max().item()
    if torch.equal(plain.weights(), before):
        raise NotApplicable(f"no weight moves in {LATER + 2} steps")
    if max(off, later) <= SAME:
        raise Defect("the steps are the same as without: what was accumulated before is lost")
    if not several:
        raise NotApplicable("one evaluation a step, which adds to p.grad as torch's own optimizers do")
    raise Defect(f"nothing is said, and the step is {off:.1e} off the one without")


def _drop(trial: Trial) -> None:
    for p in trial.parameters:
        p.grad = None


def _within_step(trial: Trial) -> None:
    if trial.form not in ("closure", "pair"):
        raise NotApplicable("the caller computes the gradient at x before step, by its contract")


def _noticed(act: Callable[[], object]) -> str:
    """How the optimizer made itself heard; empty if it did not."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            act()
        except Exception as error:
            return describe(error)
    return f"warned: {heard[0].message}"[:200] if heard else ""
