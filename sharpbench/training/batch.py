"""A mini-batch's closures: what an optimizer evaluates, as often as its rule asks."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..optim import BatchLoss
from ..spec import TaskSpec
from .counting import Count
from .feed import Examples
from .recorded import LARGEST, RecordedGradient


class PartLoss(BatchLoss):
    """The closure of one part of a mini-batch; ``right`` counts the right answers of its first pass.

    The first pass is the one at the weights. The count stays on the device.

    Args:
        optimizer: whose gradients to zero.
        network: inputs → logits.
        x: inputs.
        y: labels, (n,), or (n, length): then an example loses the mean over its tokens.
        task: precision and label smoothing.
        weight: what the losses are multiplied with.
        recorded: of the network, for a batch that is not weighted.
        count: told of gradients that its hooks can't see.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        task: TaskSpec,
        weight: float,
        recorded: RecordedGradient | None = None,
        count: Count | None = None,
    ) -> None:
        super().__init__(optimizer, self._losses)
        self.network, self.x, self.y, self.weight = network, x, y, weight
        self.recorded = recorded if weight == 1.0 else None
        self.counter = count.counter if count is not None else None
        self.reports = self.counter is not None and count is not None and count.by_closures
        self.smoothing = task.label_smoothing
        self.cast = autocast(task, x.device)
        self.right: Tensor | None = None

    def __call__(self) -> Tensor:
        # What BatchLoss does, with the mean inside of the cross-entropy: fewer small operations a pass.
        if self.recorded is not None:
            # A replay passes through no graph.
            with nullcontext() if self.counter is None else self.counter.one_gradient(len(self.y)):
                loss, logits = self.recorded(self.x, self.y)
            self._count(logits)
            return loss
        self.optimizer.zero_grad()
        loss = self._cross_entropy("mean")
        if self.weight != 1.0:
            loss = loss * self.weight
        scaled = getattr(self.optimizer, "scaled", None)
        (loss if scaled is None else scaled(loss)).backward()
        return loss

    def _losses(self) -> Tensor:
        each = self._cross_entropy("none")
        if self.y.ndim > 1:
            each = each.view(self.y.shape).mean(1)
        return each if self.weight == 1.0 else each * self.weight

    def _cross_entropy(self, reduction: str) -> Tensor:
        with self.cast:
            logits = self.network(self.x)
            if self.reports and self.counter is not None:
                self.counter.watch(logits)
            loss = cross_entropy(logits, self.y, reduction, self.smoothing)
        self._count(logits)
        return loss

    def _count(self, logits: Tensor) -> None:
        if self.right is None:
            self.right = (logits.detach().flatten(0, -2).argmax(1) == self.y.flatten()).sum()


def batch_losses(
    network: nn.Module,
    optimizer: Optimizer,
    x: Tensor,
    y: Tensor,
    task: TaskSpec,
    scale: float = 1.0,
    recorded: RecordedGradient | None = None,
    count: Count | None = None,
) -> list[PartLoss]:
    """The closures of a mini-batch, one for each of ``task.micro_batches`` parts.

    The average over parts, and over ranks, is the mean over the mini-batch also when the parts differ in
    size: a part's losses are multiplied with its size over the mean size (times ``scale``, for ranks).
    """
    parts = min(task.micro_batches, len(y))
    if parts == 1:
        return [PartLoss(optimizer, network, x, y, task, scale, recorded, count)]
    return [
        PartLoss(optimizer, network, some, labels, task, scale * len(labels) * parts / len(y), count=count)
        for some, labels in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True)
    ]


def recorded_gradient(model: nn.Module, task: TaskSpec, ranks: int = 1) -> RecordedGradient | None:
    """A recording of the network's gradient, where one is of use and tells all that is done."""
    plain = task.compile == "no" and task.precision == "float32" and task.micro_batches == 1 and ranks == 1
    parameters = list(model.parameters())
    small = sum(p.numel() for p in parameters) <= LARGEST
    if not (plain and small and all(p.device.type == "cpu" for p in parameters)):
        return None
    return RecordedGradient(model, partial(cross_entropy, smoothing=task.label_smoothing))


def cross_entropy(logits: Tensor, y: Tensor, reduction: str = "mean", smoothing: float = 0.0) -> Tensor:
    """Of logits (n, classes) or (n, length, classes) and their labels."""
    return nn.functional.cross_entropy(
        logits.flatten(0, -2), y.flatten(), reduction=reduction, label_smoothing=smoothing
    )


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples, and over the tokens of each: the loss that measures are taken of.

    >>> float(mean_cross_entropy(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)).exp())
    5.0
    """
    return cross_entropy(logits, labels)


def autocast(task: TaskSpec, device: torch.device) -> AbstractContextManager[object]:
    """The precision of forward passes."""
    if task.precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def answers(examples: Examples) -> int:
    """Answers an example asks for: 1, or the length of a text."""
    return math.prod(examples.labels.shape[1:])
