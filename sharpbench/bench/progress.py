"""What a run tells its launcher while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """One message about one run: small and picklable, sent about once an epoch."""

    run_id: str
    stage: Literal["training", "measuring"]
    epoch: int
    epochs: int
    loss: float | None = None
    accuracy: float | None = None


Listener = Callable[[Progress], None]
