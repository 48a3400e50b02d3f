"""One training, on one screen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from ..optim import OPTIMIZERS, SharpnessAware, build, complete_parameters
from ..spec import OptimizerSpec, TaskSpec
from .batch import answers, autocast, batch_losses, recorded_gradient
from .checkpoint import Checkpoints, Course
from .counting import Count
from .evaluate import evaluate
from .feed import Examples
from .parallel import Ranks
from .schedules import factor
from .streams import global_stream, stream, stream_seed


def train(
    model: nn.Module,
    task: TaskSpec,
    method: OptimizerSpec,
    seed: int,
    train_set: Examples,
    test_set: Examples,
    *,
    validation_set: Examples | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
    measure_after: Callable[[int], Sequence[dict[str, Any]]] = lambda epoch: (),
    diagnostics: bool = False,
    generators: dict[str, torch.Generator] | None = None,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks | None = None,
) -> Course:
    """Train ``model`` in place. Stops early, and says why, when the loss is no longer finite.

    Args:
        model: the network, on the device of the examples.
        task: what the suite says about it.
        method: the optimizer.
        seed: of the named random streams ("order", "optimizer", "dropout").
        train_set: what mini-batches are drawn from; with its augmentation.
        test_set: evaluated every ``task.evaluate_every`` epochs and after the last.
        validation_set: likewise.
        on_epoch: told each row of the history.
        measure_after: rows of measures after that many epochs; called for 0 too.
        diagnostics: gather what the optimizer says about its steps (``SharpnessAware.diagnostics``).
        generators: further random streams that a checkpoint has to hold (the augmentation's).
        checkpoints: where to save, and to go on from.
        ranks: the processes that share each mini-batch.

    Raises:
        Interrupted: a stop was asked for; the checkpoint is written.
        InvalidInput: parameters that the optimizer doesn't know.
    """
    ranks, checkpoints = ranks or Ranks(), checkpoints or Checkpoints()
    order = stream(seed, "order")
    count, device = len(train_set), train_set.labels.device
    # Parts of nearly equal size: no example is dropped, and no batch is a remainder of two images.
    batches = max(1, round(count / task.batch_size))
    parameters = complete_parameters(
        method.name,
        method.parameters,
        total_steps=task.epochs * batches,
        seed=stream_seed(seed, "optimizer"),
    )
    shared = ranks.wrap(model, device)
    network = shared if task.compile == "no" else compiled(shared, task.compile)
    optimizer = build(method.name, base_optimizer(model, task, method), model=shared, **parameters)
    recorded = recorded_gradient(model, task, ranks.count)
    evaluated = Count(model, task, method)
    zero = torch.zeros((), dtype=torch.float64, device=device)
    if diagnostics and isinstance(optimizer, SharpnessAware):
        optimizer.record_diagnostics()
    course = Course(loss_sum=zero, right=torch.zeros((), dtype=torch.int64, device=device))
    checkpoints.attach(course, model, optimizer, {"order": order, **(generators or {})}, ranks.first)
    began = time.perf_counter()
    with global_stream(seed, "dropout"), closing(evaluated):
        if not checkpoints.resume():
            course.measured += measure_after(0)
        evaluated.begin(optimizer, course.counted, course.said)
        while course.epoch <= task.epochs and course.diverged is None:
            model.train()
            if course.batch == 0:
                course.order = torch.randperm(count, generator=order)
                course.loss_sum.zero_()
                course.right.zero_()
            for rows in course.order.to(device).tensor_split(batches)[course.batch :]:
                rate = learning_rate(task, course.steps, batches)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x, y = train_set.batch(ranks.share(rows))
                scale = len(y) * ranks.count / len(rows)  # ranks' parts may differ by one example
                parts = batch_losses(network, optimizer, x, y, task, scale, recorded, evaluated)
                loss = evaluated.step(parts, len(y))
                course.loss_sum += loss * (len(rows) / ranks.count)
                for part in parts:
                    if part.right is not None:
                        course.right += part.right
                course.counted, course.said = evaluated.total, evaluated.said
                course.steps += 1
                course.batch += 1
                checkpoints.tick(time.perf_counter() - began)
            course.gradient_evaluations = round(evaluated.total)
            if not course.remarks and (contradiction := evaluated.contradiction(course.steps)):
                course.remarks.append(contradiction)
            mean_loss = ranks.sum(course.loss_sum).item() / count
            if not math.isfinite(mean_loss):
                course.diverged = f"training loss became {mean_loss} in epoch {course.epoch}"
                break
            row: dict[str, Any] = {
                "epoch": course.epoch,
                "train_loss": mean_loss,
                "train_accuracy": ranks.sum(course.right).item() / course.order.numel() / answers(train_set),
                "lr": learning_rate(task, course.steps - 1, batches),
                "gradient_evaluations": course.gradient_evaluations,
            }
            if course.epoch % task.evaluate_every == 0 or course.epoch == task.epochs:
                for name, examples in (("test", test_set), ("validation", validation_set)):
                    if examples is not None:
                        row[f"{name}_loss"], row[f"{name}_accuracy"] = evaluate(
                            network, examples, autocast=autocast(task, device)
                        )
            row["wall_seconds"] = course.seconds + time.perf_counter() - began
            course.history.append(row)
            if diagnostics and isinstance(optimizer, SharpnessAware):
                course.diagnostics += [
                    {"epoch": course.epoch, "name": name, "value": value.item()}
                    for name, value in optimizer.diagnostics().items()
                ]
            on_epoch(row)
            course.measured += measure_after(course.epoch)
            course.epoch, course.batch = course.epoch + 1, 0
    course.seconds += time.perf_counter() - began
    if course.diverged is None and not all(p.isfinite().all() for p in model.parameters()):
        course.diverged = "a weight is not finite after the last step"
    return course


def learning_rate(task: TaskSpec, step: int, batches: int) -> float:
    """The rate of a step, from 0; ``batches`` steps are an epoch."""
    return task.lr * factor(
        task.schedule,
        step,
        task.epochs * batches,
        warmup=task.warmup_epochs * batches,
        milestones=[epoch * batches for epoch in task.milestones],
        decay=task.decay,
    )


def compiled(network: nn.Module, mode: str) -> nn.Module:
    """The network through ``torch.compile``; its parameters are the same objects."""
    return cast(nn.Module, torch.compile(network, mode=None if mode == "default" else mode))


def base_optimizer(model: nn.Module, task: TaskSpec, method: OptimizerSpec) -> Optimizer:
    """The base that the method wraps: the one its name stands for (sgd, adamw), else the task's."""
    entry = OPTIMIZERS.get(method.name)
    kind = (entry.base if entry else "") or task.base
    named = list(model.named_parameters())
    if kind == "adamw":
        return torch.optim.AdamW(named, lr=task.lr, weight_decay=task.weight_decay, fused=True)
    return torch.optim.SGD(
        named, lr=task.lr, momentum=task.momentum, weight_decay=task.weight_decay, fused=True
    )
