"""Learning-rate schedules as a factor of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence


def factor(
    schedule: str,
    step: int,
    steps: int,
    *,
    warmup: float = 0.0,
    milestones: Sequence[float] = (),
    decay: float = 0.1,
) -> float:
    """What the learning rate is multiplied with at ``step`` (from 0) of ``steps``.

    ``"cosine"``: ``(1 + cos(pi t)) / 2`` with ``t = (step - warmup) / (steps - warmup)``, from 1 towards 0;
    ``"step"``: ``decay ** (milestones reached)``; ``"constant"``: 1. During the first ``warmup`` steps the
    factor rises linearly instead, ``(step + 1) / (warmup + 1)``.

    Args:
        schedule: ``"cosine"``, ``"step"`` or ``"constant"``.
        step: the step about to be taken.
        steps: all steps of the training.
        warmup: length of the linear rise, in steps.
        milestones: steps from which on another ``decay`` counts (for ``"step"``).
        decay: what each milestone multiplies with.

    >>> factor("cosine", 0, 10), factor("cosine", 5, 10), factor("constant", 7, 10)
    (1.0, 0.5, 1.0)
    >>> [round(factor("step", step, 4, milestones=(2, 3)), 3) for step in range(4)]
    [1.0, 1.0, 0.1, 0.01]
    >>> factor("constant", 0, 10, warmup=1), factor("constant", 1, 10, warmup=1)
    (0.5, 1.0)
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if schedule == "step":
        return float(decay ** sum(step >= milestone for milestone in milestones))
    return 1.0
