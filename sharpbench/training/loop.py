"""One training, on one screen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..optim import OPTIMIZERS, BatchLoss, build, complete_parameters
from ..spec import OptimizerSpec, TaskSpec
from .evaluate import evaluate
from .schedules import factor
from .streams import global_stream, stream, stream_seed


@dataclass(frozen=True)
class Examples:
    """Normalised float inputs and int64 labels, both on the training device."""

    inputs: Tensor
    labels: Tensor


@dataclass
class Training:
    """What a training leaves: the history (one dict an epoch) and how it ended."""

    history: list[dict[str, Any]] = field(default_factory=list)
    diverged: str | None = None
    steps: int = 0
    gradient_evaluations: int = 0


def train(
    model: nn.Module,
    task: TaskSpec,
    method: OptimizerSpec,
    seed: int,
    train_set: Examples,
    test_set: Examples,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Training:
    """Train ``model`` in place. Stops early, and says why, when the loss is no longer finite."""
    result = Training()
    order = stream(seed, "order")
    count = len(train_set.labels)
    # Parts of nearly equal size: no example is dropped, and no batch is a remainder of two images.
    batches = max(1, round(count / task.batch_size))
    total_steps = task.epochs * batches
    parameters = complete_parameters(
        method.name, method.parameters, total_steps=total_steps, seed=stream_seed(seed, "optimizer")
    )
    optimizer = build(method.name, base_optimizer(model, task, method), model=model, **parameters)
    began = time.perf_counter()
    with global_stream(seed, "dropout"):
        for epoch in range(1, task.epochs + 1):
            model.train()
            loss_sum = torch.zeros((), device=train_set.labels.device)
            right = torch.zeros((), dtype=torch.int64, device=train_set.labels.device)
            for rows in torch.randperm(count, generator=order).tensor_split(batches):
                rate = task.lr * factor(task.schedule, result.steps, total_steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x, y = train_set.inputs[rows], train_set.labels[rows]
                at_x: list[Tensor] = []

                def losses(x: Tensor = x, y: Tensor = y, at_x: list[Tensor] = at_x) -> Tensor:
                    logits = model(x)
                    at_x.append(logits.detach())
                    return nn.functional.cross_entropy(logits, y, reduction="none")

                loss = optimizer.step(BatchLoss(optimizer, losses))
                loss_sum += loss * len(y)
                right += (at_x[0].argmax(1) == y).sum()  # the first pass is the one at the weights
                result.steps += 1
            mean_loss = loss_sum.item() / count
            result.gradient_evaluations = round(
                getattr(optimizer, "gradient_evaluations", result.steps)
                + getattr(optimizer, "example_gradients", 0)
            )
            if not math.isfinite(mean_loss):
                result.diverged = f"training loss became {mean_loss} in epoch {epoch}"
                break
            test_loss, test_accuracy = evaluate(model, test_set.inputs, test_set.labels)
            row = {
                "epoch": epoch,
                "train_loss": mean_loss,
                "train_accuracy": right.item() / count,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "lr": rate,
                "gradient_evaluations": result.gradient_evaluations,
                "wall_seconds": time.perf_counter() - began,
            }
            result.history.append(row)
            on_epoch(row)
    if result.diverged is None and not all(p.isfinite().all() for p in model.parameters()):
        result.diverged = "a weight is not finite after the last step"
    return result


def base_optimizer(model: nn.Module, task: TaskSpec, method: OptimizerSpec) -> Optimizer:
    """The base that the method wraps: the one its name stands for (sgd, adamw), else the task's."""
    entry = OPTIMIZERS.get(method.name)
    kind = (entry.base if entry else "") or task.base
    named = list(model.named_parameters())
    if kind == "adamw":
        return torch.optim.AdamW(named, lr=task.lr, weight_decay=task.weight_decay)
    return torch.optim.SGD(
        named, lr=task.lr, momentum=task.momentum, weight_decay=task.weight_decay, foreach=True
    )
