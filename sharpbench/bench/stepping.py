"""One method at work on one task, a mini-batch a call, exactly as in training: for timing and pricing."""

from __future__ import annotations

import time

import torch

from ..optim import build, complete_parameters
from ..spec import RunSpec
from ..training.batch import batch_losses, recorded_gradient
from ..training.counting import Count
from ..training.loop import base_optimizer, compiled
from ..training.streams import stream, stream_seed
from .ready import make_ready

LONGEST = 1000  # steps in one measurement; the clock has resolved them long before
TASK_OF_A_STEP = (
    "dataset", "model", "batch_size", "augmentation", "micro_batches", "precision", "channels_last",
    "compile", "threads", "train_fraction",
)  # fmt: skip


class Stepper:
    """Trains the network of ``spec`` without end, in memory, with the threads that the process has.

    Attributes:
        batches: steps of an epoch.

    Example:
        >>> from ..spec import OptimizerSpec
        >>> stepper = Stepper(RunSpec(optimizer=OptimizerSpec(name="sam", label="sam")))
        >>> stepper.step()
        >>> stepper.gradients_per_step
        2.0
    """

    def __init__(self, spec: RunSpec, device: str | None = None) -> None:
        self.spec = spec
        self.device = torch.device(device or "cpu")
        self.ready = make_ready(spec, self.device)
        task, method, model = spec.task, spec.optimizer, self.ready.model
        self.batches = max(1, round(len(self.ready.train_set) / task.batch_size))
        parameters = complete_parameters(
            method.name,
            method.parameters,
            total_steps=task.epochs * self.batches,
            seed=stream_seed(spec.seed, "optimizer"),
        )
        self.network = model if task.compile == "no" else compiled(model, task.compile)
        self.recorded = recorded_gradient(model, task)
        self.evaluated = Count(model, task, method)
        self.optimizer = build(method.name, base_optimizer(model, task, method), model=model, **parameters)
        self.evaluated.begin(self.optimizer)
        self._order = stream(spec.seed, "order")
        self._parts: list[torch.Tensor] = []
        self.steps = 0

    def step(self) -> None:
        """The next mini-batch."""
        if not self._parts:
            rows = torch.randperm(len(self.ready.train_set), generator=self._order).to(self.device)
            self._parts = list(rows.tensor_split(self.batches))
        self.network.train()
        x, y = self.ready.train_set.batch(self._parts.pop())
        parts = batch_losses(
            self.network, self.optimizer, x, y, self.spec.task, recorded=self.recorded, count=self.evaluated
        )
        self.evaluated.step(parts, len(y))
        self.steps += 1

    def timed(self, seconds: float, fewest: int = 1) -> float:
        """Seconds of a step: the mean over as many as ``seconds`` hold, and at least ``fewest``."""
        self._finish()
        began, count = time.perf_counter(), 0
        while count < fewest or (time.perf_counter() - began < seconds and count < LONGEST):
            self.step()
            count += 1
        self._finish()
        return (time.perf_counter() - began) / count

    @property
    def gradients_per_step(self) -> float:
        """Gradients of whole mini-batches, on average so far."""
        return self.evaluated.total / max(1, self.steps)

    def _finish(self) -> None:
        # Work is queued on a GPU; without waiting for it the clock would show the queueing.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def kind_of_step(spec: RunSpec) -> tuple[object, ...]:
    """What the cost of a step depends on: runs that agree in it take the same time a step."""
    task = spec.task.model_dump()
    parameters = sorted(spec.optimizer.parameters.items())
    return (*(task[name] for name in TASK_OF_A_STEP), spec.task.base, spec.optimizer.name, repr(parameters))
