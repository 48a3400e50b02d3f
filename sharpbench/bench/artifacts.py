"""The files of a run directory (docs/formats.md)."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import nn

from .. import __version__
from ..allocator import allocator_in_use
from ..data import TrainingSet
from ..files import atomic_path
from ..spec import SCHEMA_VERSION, RunSpec
from ..training.checkpoint import Course
from .sources import KEY

HISTORY = (
    "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "validation_loss",
    "validation_accuracy", "lr", "gradient_evaluations", "wall_seconds",
)  # fmt: skip


def save_frame(path: Path, frame: pd.DataFrame) -> None:
    """Parquet, atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def save_history(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One row an epoch; what was not evaluated then is missing (NaN)."""
    frame = pd.DataFrame(list(rows), columns=list(HISTORY))
    counted = {"epoch": "int64", "gradient_evaluations": "int64"}
    save_frame(path, frame.astype({name: counted.get(name, "float64") for name in HISTORY}))


def save_labels(directory: Path, corrupted: TrainingSet) -> None:
    """Which examples were trained on and with which labels, and which were held out, for audit."""
    columns = {"index": corrupted.index}
    if corrupted.labels.ndim == 1:  # a text's labels are the text
        columns |= {"label": corrupted.labels, "clean_label": corrupted.clean_labels}
    frame = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    save_frame(directory / "labels.parquet", frame)
    if len(corrupted.validation_index):
        held = pd.DataFrame({"index": corrupted.validation_index.numpy()})
        save_frame(directory / "validation.parquet", held)


def save_weights(path: Path, model: nn.Module) -> None:
    """Weights and buffers as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)


def result(
    spec: RunSpec,
    model: nn.Module,
    course: Course,
    metrics: dict[str, float] | None,
    *,
    wall: float,
    measuring: float,
    examples: int,
    device: torch.device,
) -> dict[str, Any]:
    """The content of ``result.json``."""
    if metrics is not None and not all(math.isfinite(v) for v in metrics.values()):
        course.diverged, metrics = "a loss with the final weights is not finite", None
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": spec.id,
        "sharpbench": __version__,
        "status": "diverged" if course.diverged else "done",
        "reason": course.diverged,
        "epochs_completed": len(course.history),
        "steps": course.steps,
        "gradient_evaluations": course.gradient_evaluations,
        "parameters": sum(p.numel() for p in model.parameters()),
        "wall_seconds": wall,
        "train_seconds": course.seconds,
        "measure_seconds": measuring,
        "examples_per_second": len(course.history) * examples / course.seconds if course.seconds else None,
        "peak_memory_bytes": peak_memory(device),
        "metrics": metrics,
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on CUDA, else the peak resident size of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@lru_cache
def code_digest() -> str:
    """First 12 hex digits of the SHA-256 over the source of everything that can change a number.

    In a checkout the version stays the same while the code doesn't.
    """
    package = Path(__file__).resolve().parent.parent
    parts = [package / name for name in ("functionals.py", "laws.py")]
    parts += [package / "bench" / name for name in ("ready.py", "run.py")]
    for room in ("data", "models", "optim", "sharpness", "tape", "training"):
        parts += sorted((package / room).rglob("*.py"))
    digest = hashlib.sha256()
    for path in parts:
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def provenance(
    device: torch.device, ranks: int = 1, sources: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Where and with what a run was made; ``sources``: name → digest of an optimizer that isn't ours."""
    cuda = device.type == "cuda"
    return {
        "sharpbench": __version__,
        "code": code_digest(),
        **({KEY: dict(sources)} if sources else {}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        # Which kernels PyTorch runs on this processor: others round differently.
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "allocator": allocator_in_use(),
        "ranks": ranks,
        "process": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
