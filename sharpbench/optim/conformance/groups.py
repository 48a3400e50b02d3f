"""Gradients, parameter groups and schedules: the habits of torch's own optimizers."""

from __future__ import annotations

import torch
from torch import Tensor

from .finding import Defect, NotApplicable, promise
from .problem import Trial
from .subject import Subject

# What restoring by subtraction leaves in float64; the check of exact restoring is stricter.
ROUNDING = 1e-12


@promise(
    "zero gradient is safe",
    "dividing by a norm of zero: 0/0 is NaN, for ever (use e = 0 where the norm is 0)",
)
def zero_gradient(subject: Subject) -> None:
    """A gradient that is zero moves nothing, and makes no NaN; the step after it works."""

    def flat(losses: Tensor, number: int) -> Tensor:
        return losses * 0.0

    trial = Trial(subject)
    for index in range(2):
        step = trial.step(index, flat)
        if not torch.isfinite(step.after).all():
            raise Defect("the weights are not finite after a step with zero gradient")
        if not torch.equal(step.after, step.before):
            moved = (step.after - step.before).abs().max().item()
            raise Defect(f"a step with zero gradient moved the weights by {moved:.1e}")
    if not torch.isfinite(trial.step(2).after).all():
        raise Defect("the step after zero gradients gives weights that are not finite")


@promise(
    "parameters without gradient untouched",
    "replacing a gradient that is None by zeros: weight decay and momentum then act on frozen parameters",
)
def no_gradient_untouched(subject: Subject) -> None:
    """A parameter that takes no part in the loss keeps its value, weight decay or not."""
    trial = Trial(subject, unused=True, weight_decay=0.1)
    for index, step in enumerate(trial.run(3)):
        if not torch.equal(step.after[-1:], step.before[-1:]):
            raise Defect(f"step {index} changed a parameter that has no gradient")


@promise(
    "parameter groups keep their learning rate",
    "using the learning rate of the first group, or the default, for all",
)
def group_rates(subject: Subject) -> None:
    """A group with lr 0 stands still, whichever comes first, and the other one moves."""
    for rates in ((0.1, 0.0), (0.0, 0.1)):
        trial = Trial(subject, group_lrs=rates, lr=1.0)
        step = trial.run(3)
        cut = sum(p.numel() for p in trial.parameters[:2])
        start, end = step[0].before, step[-1].after
        parts = ((start[:cut], end[:cut]), (start[cut:], end[cut:]))
        for rate, (old, new) in zip(rates, parts, strict=True):
            moved = (new - old).abs().max().item()
            if rate == 0 and not moved <= ROUNDING:
                raise Defect(f"a group with lr 0 moved by {moved:.1e}")
            if rate > 0 and torch.equal(old, new):
                raise Defect(f"a group with lr {rate} does not move")


@promise(
    "learning-rate schedulers attach",
    "param_groups copied instead of shared with the base optimizer: the schedule changes the copy",
)
def schedulers_attach(subject: Subject) -> None:
    """A scheduler of torch built on the optimizer governs the update: with lr 0 nothing moves."""
    trial = Trial(subject)
    # Two steps by the schedule's own count: lr as it is, then zero.
    schedule = torch.optim.lr_scheduler.LambdaLR(trial.optimizer, lambda count: 1.0 if count == 0 else 0.0)
    step = trial.step(0)
    if torch.equal(step.before, step.after):
        raise Defect("the weights do not move while the schedule is at full rate")
    schedule.step()
    step = trial.step(1)
    moved = (step.after - step.before).abs().max().item()
    if not moved <= ROUNDING:
        raise Defect(f"with the scheduled lr at 0 the weights moved by {moved:.1e}")


@promise(
    "weight decay acts at x",
    "the base optimizer stepped while the weights were perturbed, or the decay is part of the closure's "
    "second gradient: restore first, then step",
)
def decay_at_weights(subject: Subject) -> str:
    """Turning weight decay on for one step changes the update by exactly - lr decay x."""
    if not subject.evaluates_at_weights:
        raise NotApplicable("every pass of this rule is at a perturbed point, by its definition")
    rate, decay, worst = 0.1, 0.1, 0.0
    for warm in range(4):
        ends = []
        for value in (0.0, decay):
            trial = Trial(subject, lr=rate)
            if not trial.has_base:
                raise NotApplicable("has no base optimizer whose decay to look at")
            torch.manual_seed(0)
            trial.run(warm)
            for group in trial.optimizer.param_groups:
                group["weight_decay"] = value
            step = trial.step(warm)
            ends.append(step.after)
        worst = max(worst, (ends[1] - ends[0] + rate * decay * step.before).abs().max().item())
    if not worst <= 1e-12:
        raise Defect(f"the decay differs from lr decay x by {worst:.1e} (lr {rate}, decay {decay})")
    return f"within {worst:.0e}"
