"""Execute one RunSpec: train, measure, write. A run is a function of its spec and writes one directory."""

from __future__ import annotations

import math
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn

from .. import __version__
from ..data import Dataset, TrainingSet, load, training_set
from ..errors import RunFailed, SharpbenchError
from ..files import atomic_path, write_json
from ..models import build_model
from ..sharpness import measure
from ..spec import SCHEMA_VERSION, RunSpec
from ..training.evaluate import evaluate
from ..training.loop import Examples, Training, train
from ..training.streams import global_stream, stream, stream_seed
from .progress import Listener, Progress

# Data sets of this process, by name: a worker runs many specs on the same data.
_LOADED: dict[str, Dataset] = {}


def execute(
    spec: RunSpec, directory: Path, listener: Listener | None = None, device: str | None = None
) -> str:
    """Run ``spec`` and write ``directory`` (docs/formats.md), ``result.json`` last.

    Returns:
        ``"done"`` or ``"diverged"``; both are results.

    Raises:
        RunFailed: the run can't be carried out; nothing in the directory says that it ended.
    """
    began = time.perf_counter()
    where = torch.device(device or "cpu")
    tell = listener or (lambda progress: None)
    torch.set_num_threads(spec.task.threads)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "spec.json", spec.model_dump(mode="json"))
    write_json(directory / "provenance.json", provenance(where))
    try:
        data = _LOADED.setdefault(spec.task.dataset, load(spec.task.dataset))
        corrupted = training_set(
            data.train,
            data.classes,
            label_noise=spec.task.label_noise,
            fraction=spec.task.train_fraction,
            subset_stream=stream(spec.seed, "subset"),
            noise_stream=stream(spec.seed, "label_noise"),
        )
        save_labels(directory / "labels.parquet", corrupted)
        with global_stream(spec.seed, "init"):
            model = build_model(spec.task.model, data.shape, data.classes).to(where)
        train_set = Examples(data.normalise(corrupted.images).to(where), corrupted.labels.to(where))
        test_set = Examples(data.normalise(data.test.images).to(where), data.test.labels.to(where))

        def on_epoch(row: dict[str, Any]) -> None:
            tell(
                Progress(
                    spec.id,
                    "training",
                    row["epoch"],
                    spec.task.epochs,
                    row["train_loss"],
                    row["test_accuracy"],
                )
            )

        outcome = train(model, spec.task, spec.optimizer, spec.seed, train_set, test_set, on_epoch)
        trained_at = time.perf_counter()
        save_frame(directory / "history.parquet", pd.DataFrame(outcome.history, columns=HISTORY))
        metrics = None
        if outcome.diverged is None:
            metrics = final_metrics(model, train_set, test_set, corrupted, spec.task.label_noise)
            tell(
                Progress(
                    spec.id,
                    "measuring",
                    spec.task.epochs,
                    spec.task.epochs,
                    metrics["train_loss"],
                    metrics["test_accuracy"],
                )
            )
            save_measures(directory, model, spec, train_set)
            with atomic_path(directory / "model.safetensors") as temporary:
                save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    except SharpbenchError as error:
        raise RunFailed(str(error)) from error
    ended = time.perf_counter()
    write_json(
        directory / "result.json",
        result(spec, model, outcome, metrics, ended - began, trained_at - began, ended - trained_at),
    )
    return "diverged" if outcome.diverged else "done"


HISTORY = (
    "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr", "gradient_evaluations",
    "wall_seconds",
)  # fmt: skip


def final_metrics(
    model: nn.Module, train_set: Examples, test_set: Examples, corrupted: TrainingSet, label_noise: float
) -> dict[str, float]:
    """Losses and accuracies with the final weights, and the generalization gaps.

    A gap compares like with like: training labels carry noise, so the test side of the gap is the
    expectation under the same noise (``noisy_test_*``). Without noise that is the plain test set.
    """
    train_loss, train_accuracy = evaluate(model, train_set.inputs, train_set.labels)
    _, clean = evaluate(model, train_set.inputs, corrupted.clean_labels.to(train_set.labels.device))
    test_loss, test_accuracy = evaluate(model, test_set.inputs, test_set.labels)
    noisy_loss, noisy_accuracy = evaluate(model, test_set.inputs, test_set.labels, label_noise=label_noise)
    return {
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


def save_measures(directory: Path, model: nn.Module, spec: RunSpec, train_set: Examples) -> None:
    """Measure the network on a seeded subset of its own training examples, labels as trained."""
    size = min(spec.measure.examples, len(train_set.labels))
    chosen = torch.randperm(len(train_set.labels), generator=stream(spec.seed, "measure_examples"))[:size]
    card = measure(
        model,
        nn.functional.cross_entropy,
        (train_set.inputs[chosen], train_set.labels[chosen]),
        measures=spec.measure.measures,
        hvps=spec.measure.hvps,
        rho=spec.measure.rho,
        damping=spec.measure.damping,
        seed=stream_seed(spec.seed, "measure_probes") % 2**31,
    )
    save_frame(directory / "measures.parquet", card.frame)
    if card.density is not None:
        save_frame(directory / "density.parquet", card.density)


def save_labels(path: Path, corrupted: TrainingSet) -> None:
    """Which examples were trained on and with which labels, for audit."""
    columns = {"index": corrupted.index, "label": corrupted.labels, "clean_label": corrupted.clean_labels}
    save_frame(path, pd.DataFrame({name: values.numpy() for name, values in columns.items()}))


def save_frame(path: Path, frame: pd.DataFrame) -> None:
    """Parquet, atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def result(
    spec: RunSpec,
    model: nn.Module,
    outcome: Training,
    metrics: dict[str, float] | None,
    wall: float,
    training: float,
    measuring: float,
) -> dict[str, Any]:
    """The content of ``result.json``."""
    if metrics is not None and not all(math.isfinite(v) for v in metrics.values()):
        outcome.diverged, metrics = "a loss with the final weights is not finite", None
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": spec.id,
        "status": "diverged" if outcome.diverged else "done",
        "reason": outcome.diverged,
        "epochs_completed": len(outcome.history),
        "steps": outcome.steps,
        "gradient_evaluations": outcome.gradient_evaluations,
        "parameters": sum(p.numel() for p in model.parameters()),
        "wall_seconds": wall,
        "train_seconds": training,
        "measure_seconds": measuring,
        "metrics": metrics,
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Where and with what a run was made."""
    cuda = device.type == "cuda"
    return {
        "sharpbench": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "process": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
