"""Checkpoints: everything a training is in the middle of, so that its continuation is bitwise the same."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import Interrupted
from ..files import atomic_path
from . import interrupt

VERSION = 2
SECONDS_VARIABLE = "SHARPBENCH_CHECKPOINT_SECONDS"


@dataclass
class Course:
    """How far a training is.

    Attributes:
        epoch: the one under way, 1-based.
        batch: mini-batches of it that are done.
        order: the permutation it goes through; empty before it is drawn.
        steps: updates so far.
        loss_sum: sum of the examples' losses in this epoch, on the device.
        right: right answers in this epoch, on the device.
        history: one row an epoch.
        gradient_evaluations: gradients of whole mini-batches evaluated in the epochs that are done.
        counted: those of all steps so far.
        said: those that the optimizer says it evaluated.
        diverged: why it ended early.
        seconds: wall time spent in earlier processes.
        measured: rows of measures taken on the way.
        diagnostics: what the optimizer said about its steps, one row an epoch and scalar.
        remarks: what a reader of the result must know, one line each.
    """

    loss_sum: Tensor
    right: Tensor
    epoch: int = 1
    batch: int = 0
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    gradient_evaluations: int = 0
    counted: float = 0.0
    said: float = 0.0
    diverged: str | None = None
    seconds: float = 0.0
    measured: list[dict[str, Any]] = field(default_factory=list)
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Checkpoints:
    """Writes ``checkpoint.pt`` of one training, and continues from it.

    A checkpoint is written when ``seconds`` have passed since the last, at the next step, wherever in an
    epoch that is: work at risk is bounded whatever an epoch costs, and when it happens can't change a
    result. Also when a stop was asked for (``interrupt``), which then raises ``Interrupted``.

    Args:
        path: the file; None keeps no checkpoints (a stop still raises).
        identity: what the training is; a file of another one is ignored.
        seconds: time between checkpoints; the environment's ``SHARPBENCH_CHECKPOINT_SECONDS``, else 60.

    The file holds tensors, numbers and strings only and is read with ``weights_only=True``. One that is
    damaged, or of another training, is ignored: the training begins anew.
    """

    def __init__(self, path: Path | None = None, identity: str = "", seconds: float | None = None) -> None:
        self.path = path
        self.identity = identity
        self.seconds = float(os.environ.get(SECONDS_VARIABLE, "60")) if seconds is None else seconds
        self._last = time.monotonic()

    def attach(
        self,
        course: Course,
        model: nn.Module,
        optimizer: Optimizer,
        generators: dict[str, torch.Generator],
        writes: bool = True,
    ) -> None:
        """Say what is to be saved. With ``writes`` False (a rank other than 0) it only reads."""
        self._course, self._model, self._optimizer = course, model, optimizer
        self._generators, self._writes = generators, writes

    def resume(self) -> bool:
        """Put everything back as the checkpoint has it; False when there is none to go on from."""
        state = self._read()
        if state is None:
            return False
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
        for name, value in state["course"].items():
            now = getattr(self._course, name)
            setattr(self._course, name, value.to(now.device) if isinstance(now, Tensor) else value)
        return True

    def tick(self, seconds_here: float) -> None:
        """After every step: save if it is time.

        Raises:
            Interrupted: a stop was asked for; the checkpoint is written.
        """
        stop = interrupt.requested()
        if stop or time.monotonic() - self._last >= self.seconds:
            self.save(seconds_here)
        if stop:
            raise Interrupted(
                f"stopped in epoch {self._course.epoch}"
                + (f"; {self.path.name} is kept, run again to go on from there" if self.path else "")
            )

    def save(self, seconds_here: float) -> None:
        """Write the file, whole or not at all."""
        self._last = time.monotonic()
        if self.path is None or not self._writes:
            return
        course = dict(vars(self._course))
        course["seconds"] += seconds_here
        state = {
            "version": VERSION,
            "identity": self.identity,
            "course": course,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def _read(self) -> dict[str, Any] | None:
        if self.path is None or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # whatever a damaged file makes of the unpickler: it is no checkpoint
            return None
        if not isinstance(state, dict) or state.get("version") != VERSION:
            return None
        return state if state.get("identity") == self.identity else None
