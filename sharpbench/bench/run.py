"""Execute one RunSpec: train, measure, write. A run is a function of its spec and writes one directory."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from ..allocator import keep_freed_memory
from ..errors import Interrupted, RunFailed, SharpbenchError
from ..files import write_json
from ..optim.registry import load_class
from ..sharpness import Card, measure
from ..source import loaded_digest, module_of
from ..spec import RunSpec, TaskSpec
from ..training.batch import mean_cross_entropy
from ..training.checkpoint import Checkpoints
from ..training.evaluate import evaluate
from ..training.loop import train
from ..training.parallel import Ranks
from .artifacts import provenance, result, save_frame, save_history, save_labels, save_weights
from .inventory import inventory, sealed
from .memory import advice, free_memory, in_smaller_parts, out_of_memory
from .progress import Listener, Progress
from .ready import Ready, make_ready, measure_settings, measured_rows
from .sources import KEY
from .store import CHECKPOINT
from .threads import threads


def execute(
    spec: RunSpec,
    directory: Path,
    listener: Listener | None = None,
    device: str | None = None,
    ranks: Ranks | None = None,
) -> str:
    """Run ``spec`` and write ``directory`` (docs/formats.md), ``result.json`` last.

    A checkpoint in the directory is gone on from: to the same bytes as without the interruption where it was
    written on the same kind of processor, else to rounding (docs/reproducibility.md). If memory runs out,
    mini-batches are evaluated in twice as many parts, once, where that is the same training but for
    rounding; the result says so under ``remarks``.

    Args:
        spec: the run.
        directory: the only place it writes to.
        listener: told of every epoch.
        device: where to train; None: the CPU.
        ranks: the processes that share each mini-batch; the first of them writes.

    Returns:
        ``"done"`` or ``"diverged"``; both are results.

    Raises:
        RunFailed: the run can't be carried out; nothing in the directory says that it ended.
        Interrupted: a stop was asked for; the checkpoint is in the directory.
    """
    keep_freed_memory()
    where, ranks = torch.device(device or "cpu"), ranks or Ranks()
    with threads(spec.task.threads):
        try:
            return _execute(spec, directory, listener, where, ranks, spec.task)
        except Exception as error:
            if not out_of_memory(error):
                raise
            # By its text alone: the traceback holds on to everything that did not fit.
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        free_memory()
        smaller = in_smaller_parts(spec) if ranks.count == 1 else None
        if smaller is None:
            raise RunFailed(f"{said}; {advice(spec)}")
        try:
            return _execute(spec, directory, listener, where, ranks, smaller)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise RunFailed(f"{said}; {advice(spec)}") from None


def _execute(
    spec: RunSpec,
    directory: Path,
    listener: Listener | None,
    where: torch.device,
    ranks: Ranks,
    task: TaskSpec,
) -> str:
    """``task`` is the spec's, or the same in smaller parts."""
    began = time.perf_counter()
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    report = _Reporter(spec, listener)
    name = spec.optimizer.name
    try:
        source = ""
        if module_of(name):
            load_class(name)  # its errors are one line each
            source = loaded_digest(module_of(name))
        ready = make_ready(spec, where)
        if ranks.first:
            directory.mkdir(parents=True, exist_ok=True)
            write_json(directory / "spec.json", spec.model_dump(mode="json"))
            write_json(
                directory / "provenance.json",
                provenance(where, ranks.count, {name: source} if source else None),
            )
            save_labels(directory, ready.corrupted)
        course = train(
            ready.model,
            task,
            spec.optimizer,
            spec.seed,
            ready.train_set,
            ready.test_set,
            validation_set=ready.validation_set,
            on_epoch=report.epoch,
            measure_after=lambda epoch: measures_of_epoch(spec, ready, epoch) if ranks.first else [],
            diagnostics=spec.measure.diagnostics,
            generators=ready.generators,
            checkpoints=Checkpoints(directory / CHECKPOINT, f"{spec.id} {source}".strip()),
            ranks=ranks,
        )
        if not ranks.first:
            return "diverged" if course.diverged else "done"
        save_history(directory / "history.parquet", course.history)
        if course.diagnostics:
            save_frame(directory / "diagnostics.parquet", pd.DataFrame(course.diagnostics))
        if course.measured:
            save_frame(directory / "trajectory.parquet", pd.DataFrame(course.measured))
        metrics, measuring = None, 0.0
        if course.diverged is None:
            metrics = final_metrics(spec, ready)
            report.measuring(metrics)
            started = time.perf_counter()
            card = measured(spec, ready)
            measuring = time.perf_counter() - started
            save_frame(directory / "measures.parquet", card.frame)
            if not card.density.empty:
                save_frame(directory / "density.parquet", card.density)
            save_weights(directory / "model.safetensors", ready.model)
    except Interrupted:
        raise
    except SharpbenchError as error:
        raise RunFailed(str(error)) from error
    ended = result(
        spec,
        ready.model,
        course,
        metrics,
        wall=time.perf_counter() - began,
        measuring=measuring,
        examples=len(ready.train_set),
        device=where,
    )
    if source:
        ended[KEY] = loaded_digest(module_of(name))
    remarks = list(course.remarks)
    if task != spec.task:
        remarks.append(f"memory ran out: mini-batches were evaluated in {task.micro_batches} parts")
    if remarks:
        ended["remarks"] = remarks
    ended["files"] = inventory(directory)
    write_json(directory / "result.json", sealed(ended))
    (directory / CHECKPOINT).unlink(missing_ok=True)
    return str(ended["status"])


def final_metrics(spec: RunSpec, ready: Ready) -> dict[str, float]:
    """Losses and accuracies with the final weights, and the generalization gaps.

    A gap compares like with like: training labels carry noise, so the test side of the gap is the
    expectation under the same noise (``noisy_test_*``). Without noise that is the plain test set.
    """
    model, train_set, test_set = ready.model, ready.train_set, ready.test_set
    train_loss, train_accuracy = evaluate(model, train_set)
    test_loss, test_accuracy = evaluate(model, test_set)
    clean, noisy_loss, noisy_accuracy = train_accuracy, test_loss, test_accuracy
    if spec.task.label_noise:
        labels = ready.corrupted.clean_labels.to(train_set.labels.device)
        _, clean = evaluate(model, train_set, labels=labels)
        noisy_loss, noisy_accuracy = evaluate(model, test_set, label_noise=spec.task.label_noise)
    metrics = {
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "clean_train_accuracy": clean,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "noisy_test_loss": noisy_loss,
        "noisy_test_accuracy": noisy_accuracy,
        "accuracy_gap": train_accuracy - noisy_accuracy,
        "loss_gap": noisy_loss - train_loss,
    }
    if ready.test_set.labels.ndim > 1:  # a text: the loss is per token
        metrics["test_perplexity"] = math.exp(min(test_loss, 700.0))
    if ready.validation_set is not None:
        loss, accuracy = evaluate(model, ready.validation_set)
        metrics |= {"validation_loss": loss, "validation_accuracy": accuracy}
    return metrics


def measured(spec: RunSpec, ready: Ready) -> Card:
    """Measure the network, in eval mode, on a seeded subset of its own training examples, as trained."""
    model: nn.Module = ready.model
    flags = {module: module.training for module in model.modules()}
    model.eval()
    some = ready.train_set.subset(measured_rows(spec, len(ready.train_set)).to(ready.train_set.labels.device))
    card = measure(model, mean_cross_entropy, some.ready(), initial=ready.initial, **measure_settings(spec))
    for module, flag in flags.items():
        module.training = flag
    return card


def measures_of_epoch(spec: RunSpec, ready: Ready, epoch: int) -> list[dict[str, Any]]:
    """Rows of ``trajectory.parquet``, if the suite asks for this epoch's."""
    if epoch not in spec.measure.epochs:
        return []
    frame = measured(spec, ready).frame.astype(object)
    return [{"epoch": epoch} | dict(zip(frame.columns, row, strict=True)) for row in frame.to_numpy()]


class _Reporter:
    """Turns rows of the history into progress messages."""

    def __init__(self, spec: RunSpec, listener: Listener | None) -> None:
        self.spec, self.listener = spec, listener
        self.accuracy: float | None = None

    def epoch(self, row: dict[str, Any]) -> None:
        self.accuracy = row.get("test_accuracy", self.accuracy)
        self._tell("training", row["epoch"], row["train_loss"])

    def measuring(self, metrics: dict[str, float]) -> None:
        self.accuracy = metrics["test_accuracy"]
        self._tell("measuring", self.spec.task.epochs, metrics["train_loss"])

    def _tell(self, stage: Literal["training", "measuring"], epoch: int, loss: float) -> None:
        if self.listener is not None:
            spec = self.spec
            self.listener(Progress(spec.id, stage, epoch, spec.task.epochs, loss, self.accuracy))
