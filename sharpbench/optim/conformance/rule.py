"""Is it the rule it says it is, and does it train?"""

from __future__ import annotations

import torch

from .finding import Defect, NotApplicable, promise
from .problem import Trial, plain_run
from .stepping import wants_gradient_first
from .subject import Subject

STEPS = 5
# Rules that divide by a norm of differences (LookSAM adds 1e-8 to it) leave rounding of about 1e-9 behind.
SAME = 1e-6


@promise(
    "rho = 0 is the base optimizer",
    "a term that does not vanish with rho, a wrong sign or scale of the handed gradient, or weights that "
    "come back changed",
)
def zero_radius_is_base(subject: Subject) -> str:
    """With rho = 0 (weight = 0 for penalised losses) the weights follow the base optimizer's."""
    zero = subject.with_zero_radius()
    if zero is None:
        raise NotApplicable("has neither rho nor weight that can be zero")
    trial = Trial(zero)
    if not trial.has_base:
        raise NotApplicable("has no base optimizer to compare with")
    expected = plain_run(trial, subject.base_kind, STEPS)
    trial.run(STEPS)
    error = (trial.weights() - expected).abs().max().item()
    if not error <= SAME:
        raise Defect(f"after {STEPS} steps the weights are {error:.1e} off the base optimizer's")
    return f"within {error:.0e} of the base after {STEPS} steps"


@promise(
    "step(closure) is enough",
    "state set up from p.grad before the closure has run: evaluate the closure first",
)
def closure_is_enough(subject: Subject) -> str:
    """``step(closure)`` works on fresh parameters that have no gradient yet, as torch documents it."""
    trial = Trial(subject, form="closure")
    evaluations = len(trial.step(0).evaluations)
    if wants_gradient_first(trial.optimizer, evaluations):
        raise NotApplicable("a two-step interface: the caller computes the gradient at x before step")
    return f"{evaluations} evaluations in the first step"


@promise("negative rho is refused", "the constructor does not check its arguments")
def negative_radius_is_refused(subject: Subject) -> None:
    """``rho=-0.1`` would walk downhill, which no rule means; the constructor raises."""
    if "rho" not in subject.hyper_parameters:
        raise NotApplicable("has no rho")
    if subject.with_parameters(rho=-0.1).can_be_built():
        raise Defect("rho=-0.1 was accepted")


@promise(
    "the base optimizer steps once",
    "base.step() called in both passes (momentum and schedules then advance twice), or never",
)
def base_steps_once(subject: Subject) -> None:
    """Each step ends in exactly one step of the base optimizer."""
    trial = Trial(subject)
    if not trial.has_base:
        raise NotApplicable("has no base optimizer")
    for index, step in enumerate(trial.run(STEPS)):
        if len(step.at_base) != 1:
            raise Defect(f"in step {index} the base optimizer stepped {len(step.at_base)} times")


@promise("it trains", "the handed gradient is zero, stale or scaled away")
def it_trains(subject: Subject) -> str:
    """In 40 steps on a learnable problem the loss falls by a tenth at least, and stays finite."""
    trial = Trial(subject)
    first = sum(trial.loss_at_weights(i).item() for i in range(4)) / 4
    trial.run(40)
    last = sum(trial.loss_at_weights(i).item() for i in range(4)) / 4
    if not last < 0.9 * first:
        raise Defect(f"the loss went from {first:.3f} to {last:.3f} in 40 steps")
    return f"loss {first:.3f} to {last:.3f} in 40 steps"


@promise(
    "repeatable under a seed",
    "randomness that no seed reaches: a fresh generator seeded by the clock, iteration over a set",
)
def repeatable(subject: Subject) -> None:
    """Two runs from the same seeds agree bit for bit."""
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        trial = Trial(subject, dropout=True)
        torch.manual_seed(1)
        trial.run(STEPS)
        ends.append(trial.weights())
    if not torch.equal(*ends):
        raise Defect(f"two runs differ by {(ends[0] - ends[1]).abs().max().item():.1e}")
