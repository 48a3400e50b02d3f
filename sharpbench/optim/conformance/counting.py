"""What a step costs, and what it says it cost."""

from __future__ import annotations

import torch

from .finding import Defect, NotApplicable, promise
from .problem import Trial
from .subject import Subject

STEPS = 6


@promise(
    "gradient evaluations counted",
    "a counter that assumes two passes a step, or counts steps: count the closures that were called",
)
def counted(subject: Subject) -> str:
    """``gradient_evaluations`` grows by the number of backward passes.

    Passes that the optimizer makes by ``torch.autograd.grad`` (a Hessian-vector product, gradients of single
    examples) may be counted too, or elsewhere.
    """
    trial = Trial(subject)
    spent, most = 0, 0.0
    for index in range(STEPS):
        step = trial.step(index)
        spent, most = spent + len(step.evaluations), most + step.passes
        said = getattr(trial.optimizer, "gradient_evaluations", None)
        if said is not None and not spent <= said <= max(spent, most):
            raise Defect(f"after step {index} it says {said}, but {spent} gradients were evaluated")
    measured = f"{spent / STEPS:.2f} gradients a step"
    if said is None:
        raise NotApplicable(f"has no counter gradient_evaluations (it spends {measured})")
    return measured


@promise(
    "no gradient evaluated twice",
    "the second pass runs also in steps that do not perturb, at the price of SAM (typical of LookSAM and "
    "lazy rules behind a first_step/second_step interface)",
)
def none_wasted(subject: Subject) -> str:
    """No step takes the gradient of the same mini-batch at the same weights again (one in six may)."""
    trial = Trial(subject)
    wasted = []
    for index in range(STEPS):
        seen = [e.weights for e in trial.step(index).evaluations]
        if any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i]):
            wasted.append(index)
    if len(wasted) > 1:
        steps = ", ".join(map(str, wasted))
        raise Defect(f"{len(wasted)} of {STEPS} steps evaluate the same gradient twice (steps {steps})")
    return f"step {wasted[0]} does not perturb" if wasted else ""


@promise(
    "the loss reported is the loss at x",
    "returning the loss of the second pass, at the perturbed weights: training curves are then too high",
)
def loss_at_weights(subject: Subject) -> None:
    """``step`` returns the mini-batch loss at the weights, before the update, detached."""
    if not subject.evaluates_at_weights:
        raise NotApplicable("every pass of this rule is at a perturbed point, by its definition")
    trial = Trial(subject)
    for index in range(STEPS):
        expected = trial.loss_at_weights(index).item()
        loss = trial.step(index).loss
        if loss is None:
            raise NotApplicable("step returns no loss; the caller has to keep it")
        if loss.requires_grad and trial.form != "gradient first":
            raise Defect("the loss still holds its graph: memory grows with every loss kept (detach it)")
        if not abs(loss.item() - expected) <= 1e-12:
            raise Defect(f"step {index} reports {loss.item():.6f}, the loss at x is {expected:.6f}")
