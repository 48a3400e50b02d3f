"""Half, single and double precision."""

from __future__ import annotations

import torch
from torch import Tensor

from .finding import Defect, promise
from .problem import Step, Trial
from .subject import Subject

# Small enough that single precision (spacing 6e-8) can't follow, large enough for double (1e-16).
TINY, SMALL = 1e-9, 1e-5
# What restoring by subtraction leaves in float32; the check of exact restoring is stricter.
ROUNDING = 1e-6
# Wide enough (18 000 weights) that an entry of e is small beside its weight, as in real networks.
WIDE = 2048


@promise(
    "bfloat16 autocast trains and restores",
    "a perturbation computed from half-precision copies, or weights cast in place",
)
def autocast(subject: Subject) -> str:
    """Under ``torch.autocast("cpu", torch.bfloat16)`` weights stay float32, come back, and the loss falls."""
    trial = Trial(subject, dtype=torch.float32, autocast=True)
    first = sum(trial.loss_at_weights(i).item() for i in range(4)) / 4
    for index, step in enumerate(trial.run(40)):
        away = max((float((weights - step.before).abs().max()) for weights in step.at_base[:1]), default=0.0)
        if not away <= ROUNDING:
            raise Defect(f"in step {index} the base optimizer stepped {away:.1e} away from x")
    last = sum(trial.loss_at_weights(i).item() for i in range(4)) / 4
    if any(p.dtype != torch.float32 for p in trial.parameters):
        raise Defect("the weights are no longer float32")
    if not last < 0.9 * first:
        raise Defect(f"the loss went from {first:.3f} to {last:.3f} in 40 steps")
    return f"loss {first:.3f} to {last:.3f} in 40 steps"


@promise(
    "half-precision weights refused or handled",
    "adding e of size rho to bfloat16 weights: most of it is rounded away, silently (refuse such weights and "
    "name torch.autocast)",
)
def half_weights(subject: Subject) -> str:
    """Built on half-precision weights, it raises; or else its perturbation survives the rounding."""
    kept = 1.0
    accepted = False
    for dtype in (torch.bfloat16, torch.float16):
        try:
            trial = Trial(subject, dtype=dtype, hidden=WIDE)
        except (ValueError, TypeError, RuntimeError):
            continue
        accepted = True
        reference = Trial(subject, dtype=torch.float64, hidden=WIDE)
        reference.load(trial.weights().double())
        expected, found = _perturbation(reference), _perturbation(trial)
        if expected is None:
            continue
        moved = torch.zeros_like(expected) if found is None else found
        kept = min(kept, ((moved != 0) & (expected != 0)).sum().item() / int((expected != 0).sum()))
        if not kept > 0.9:
            raise Defect(f"with {dtype} weights {kept:.0%} of the entries of the perturbation survive")
    return f"{kept:.0%} of the perturbation survives" if accepted else "refused"


def _perturbation(trial: Trial) -> Tensor | None:
    for index in range(3):
        torch.manual_seed(index)
        step = trial.step(index)
        away = [e.weights - step.before for e in step.evaluations]
        moved = [e for e in away if bool((e != 0).any())]
        if moved:
            return moved[-1].double()
    return None


@promise(
    "double precision throughout",
    "norms accumulated in float32 (`.float()` before `norm`, `torch.zeros(1)` as the "
    "accumulator): float64 weights then get perturbations good to 1e-7 only",
)
def double_precision(subject: Subject) -> str:
    """With float64 weights every number is computed in float64.

    No formula of the rule is needed. The inputs and the scale of the loss are changed by a factor 1 + d,
    once with d = 1e-9, where a number that passes through float32 stands still or jumps, and once with
    d = 1e-5. Perturbation and update are smooth in d, so both must give the same slope.
    """
    worst = 0.0
    for warm in range(3):
        steps = {}
        for size in (0.0, TINY, SMALL):
            trial = Trial(subject)
            torch.manual_seed(0)
            trial.run(warm)
            direction = torch.randn(
                trial.batches[warm][0].shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
            )

            def stretch(losses: Tensor, number: int, by: float = 1.0 + size) -> Tensor:
                return losses * by

            steps[size] = trial.step(warm, stretch, inputs=trial.batches[warm][0] * (1.0 + size * direction))
        if len({len(step.evaluations) for step in steps.values()}) > 1:
            continue  # the rule decided differently: nothing to compare in this step
        for what in range(len(steps[0.0].evaluations) + 1):
            at = {size: _displacement(step, what) for size, step in steps.items()}
            length = at[0.0].norm().item()
            if length == 0:
                continue
            fine, coarse = (at[TINY] - at[0.0]) / TINY, (at[SMALL] - at[0.0]) / SMALL
            gap = (fine - coarse).norm().item() / max(length, coarse.norm().item())
            worst = max(worst, gap)
            if not gap < 0.01:
                name = "update" if what == len(steps[0.0].evaluations) else "perturbation"
                raise Defect(
                    f"the {name} of step {warm} does not follow changes of 1e-9: its slope is {gap:.0%} off"
                )
    return f"slopes agree to {worst:.0e}"


def _displacement(step: Step, what: int) -> Tensor:
    """Of the ``what``-th evaluation from x; of the update after the last."""
    places = [*(e.weights for e in step.evaluations), step.after]
    return places[what] - step.before
