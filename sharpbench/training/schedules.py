"""Learning-rate schedules as a factor of the step."""

from __future__ import annotations

import math


def factor(schedule: str, step: int, steps: int) -> float:
    """What the learning rate is multiplied with at ``step`` of ``steps``.

    ``"cosine"``: ``(1 + cos(pi step / steps)) / 2``, from 1 towards 0; ``"constant"``: 1.

    >>> factor("cosine", 0, 10), factor("cosine", 5, 10), factor("constant", 7, 10)
    (1.0, 0.5, 1.0)
    """
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return 1.0
