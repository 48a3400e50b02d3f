"""The wall-clock cost of each optimizer as a ratio to its base alone, measured side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import binom

from ..spec import OptimizerSpec, RunSpec
from .plan import Plan
from .stepping import TASK_OF_A_STEP, Stepper
from .threads import threads

SLICE_SECONDS = 0.05
WARM_UP = 5
REFERENCE = "sgd"
COLUMNS = {
    "dataset": "data set",
    "model": "network",
    "batch_size": "examples of a mini-batch",
    "optimizer": "label in the suite",
    "milliseconds": "of a step, the median over the rounds",
    "ratio": "to SGD on the same network and batches: the median of the rounds' ratios",
    "ratio_low": "lower end of its 95 % interval (order statistics)",
    "ratio_high": "upper end",
    "gradients": "gradients of whole mini-batches a step",
    "rounds": "how many",
}


@dataclass(frozen=True)
class Interval:
    """A median and its interval."""

    median: float
    low: float
    high: float


def time_plan(
    plan: Plan,
    device: str | None = None,
    rounds: int = 21,
    told: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Time a step of every optimizer of the suite on each of its networks; columns: :data:`COLUMNS`.

    All optimizers of one network live side by side and take turns, a slice of about 0.05 s each, SGD among
    them. A round's ratio is between slices a moment apart, so that a machine that slows down slows both.
    """
    groups: dict[tuple[object, ...], dict[str, RunSpec]] = {}
    for run in plan.runs:
        kind = tuple(getattr(run.spec.task, name) for name in TASK_OF_A_STEP)
        groups.setdefault(kind, {}).setdefault(run.label, run.spec)
    rows = []
    for specs in groups.values():
        with threads(next(iter(specs.values())).task.threads):
            rows += _group(specs, device, rounds, told)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def median_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """The median, and the order statistics that hold the true one with probability >= ``level``.

    The number of values below the true median is binomial(n, 1/2), whatever their distribution. With fewer
    than 6 values no pair reaches 95 %: then it is the range.

    >>> median_interval([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    Interval(median=3.5, low=1.0, high=6.0)
    """
    ordered, count = sorted(values), len(values)
    skip = max(0, int(binom.ppf((1.0 - level) / 2.0, count, 0.5)) - 1)
    return Interval(statistics.median(ordered), ordered[skip], ordered[count - 1 - skip])


def _group(
    specs: dict[str, RunSpec], device: str | None, rounds: int, told: Callable[[str], None]
) -> list[dict[str, object]]:
    first = next(iter(specs.values()))
    task = first.task
    told(f"{len(specs)} optimizers on {task.model}, {task.dataset}")
    alone = first.model_copy(update={"optimizer": OptimizerSpec(name=REFERENCE, label=REFERENCE)})
    reference = Stepper(alone, device)
    steppers = {label: Stepper(spec, device) for label, spec in specs.items()}
    for stepper in (reference, *steppers.values()):
        stepper.timed(0.0, WARM_UP)
    spent: dict[str, list[float]] = {label: [] for label in steppers}
    ratios: dict[str, list[float]] = {label: [] for label in steppers}
    for _ in range(rounds):
        base = reference.timed(SLICE_SECONDS)
        for label, stepper in steppers.items():
            now = stepper.timed(SLICE_SECONDS)
            # The reference just before and just after: drift within the round cancels to first order.
            after = reference.timed(SLICE_SECONDS)
            spent[label].append(now)
            ratios[label].append(2.0 * now / (base + after))
            base = after
    rows = []
    for label, stepper in steppers.items():
        ratio = median_interval(ratios[label])
        rows.append(
            {
                "dataset": task.dataset,
                "model": task.model,
                "batch_size": task.batch_size,
                "optimizer": label,
                "milliseconds": 1000.0 * statistics.median(spent[label]),
                "ratio": ratio.median,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
                "gradients": stepper.gradients_per_step,
                "rounds": rounds,
            }
        )
    return rows
