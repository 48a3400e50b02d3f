"""What a suite will cost, before it is started: a second of each kind of step, then arithmetic."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..spec import RunSpec
from ..training.evaluate import evaluate
from .plan import Plan
from .run import measured
from .stepping import TASK_OF_A_STEP, Stepper, kind_of_step
from .threads import threads

WARM_UP = 3
PROBE_HVPS = 10
PROBE_EXAMPLES = 256


@dataclass(frozen=True)
class Price:
    """Of one run: seconds on a device like this one, and gradients of whole mini-batches."""

    label: str
    seconds: float
    gradients: float
    step_seconds: float
    gradients_per_step: float


def price(
    plan: Plan,
    device: str | None = None,
    seconds: float = 1.0,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, Price]:
    """Price every run of ``plan``, by run id.

    A run is its steps, its evaluations (test set, after each ``evaluate_every`` epochs) and its measures
    (timed with few products on few examples, and scaled by both). Starting processes and reading data
    come on top, once per worker.

    Args:
        plan: of the suite.
        device: as for runs.
        seconds: time spent on each kind of step.
        told: gets the name of each kind before it is measured.
    """
    steps: dict[tuple[object, ...], tuple[float, float, int]] = {}
    others: dict[tuple[object, ...], tuple[float, float]] = {}
    prices = {}
    for run in plan.runs:
        spec, kind = run.spec, kind_of_step(run.spec)
        about = (*(getattr(spec.task, name) for name in TASK_OF_A_STEP), repr(spec.measure))
        if kind not in steps or about not in others:
            told(f"{run.label} on {spec.task.model}, {spec.task.dataset}")
            with threads(spec.task.threads):
                stepper = Stepper(spec, device)
                stepper.timed(0.0, WARM_UP)
                steps.setdefault(
                    kind, (stepper.timed(seconds, WARM_UP), stepper.gradients_per_step, stepper.batches)
                )
                if about not in others:
                    others[about] = (_evaluation_seconds(stepper), _measuring_seconds(stepper))
        a_step, gradients, batches = steps[kind]
        evaluation, measuring = others[about]
        epochs = spec.task.epochs
        evaluations = -(-epochs // spec.task.evaluate_every) + 3
        extra = len([epoch for epoch in spec.measure.epochs if epoch <= epochs])
        total = epochs * batches * a_step + evaluations * evaluation + (1 + extra) * measuring
        prices[run.run_id] = Price(run.label, total, epochs * batches * gradients, a_step, gradients)
    return prices


def finished_after(durations: Sequence[float], devices: int) -> float:
    """When the last run ends if each device that is free takes the longest run left (list scheduling).

    >>> finished_after([3.0, 3.0, 2.0, 2.0, 2.0], devices=2)
    7.0
    >>> finished_after([1.0, 5.0], devices=1000)
    5.0
    """
    free = [0.0] * max(1, min(devices, len(durations)))
    for duration in sorted(durations, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _evaluation_seconds(stepper: Stepper) -> float:
    ready = stepper.ready
    evaluate(ready.model, ready.test_set)
    began = time.perf_counter()
    evaluate(ready.model, ready.test_set)
    return time.perf_counter() - began


def _measuring_seconds(stepper: Stepper) -> float:
    """A card of few products on few examples, scaled to what the suite asks for."""
    wanted = stepper.spec.measure
    examples = min(wanted.examples, PROBE_EXAMPLES, len(stepper.ready.train_set))
    small = wanted.model_copy(update={"hvps": PROBE_HVPS, "examples": examples})
    probe: RunSpec = stepper.spec.model_copy(update={"measure": small})
    began = time.perf_counter()
    measured(probe, stepper.ready)
    spent = time.perf_counter() - began
    scale = min(wanted.examples, len(stepper.ready.train_set)) / examples
    return spent * scale * max(1.0, wanted.hvps / PROBE_HVPS)
