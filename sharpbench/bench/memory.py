"""When memory runs out: once more in smaller parts if that changes nothing but rounding, else advice."""

from __future__ import annotations

import gc

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import build_model
from ..optim import OPTIMIZERS
from ..optim.base import SharpnessAware
from ..optim.registry import load_class
from ..spec import RunSpec, TaskSpec
from .ready import loaded


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or what caused it, says that memory has run out.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | torch.OutOfMemoryError):
            return True
        # The CPU allocator of torch has no exception of its own.
        said = str(seen)
        if isinstance(seen, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said):
            return True
        seen = seen.__cause__
    return False


def in_smaller_parts(spec: RunSpec) -> TaskSpec | None:
    """The task with its mini-batches in twice as many parts; None where that would be another training.

    The parts' gradients average to the mini-batch's. Not so where a network normalises by the mini-batch,
    where a method looks at each part or each example by itself, and for optimizers that take one closure.
    """
    parts = 2 * spec.task.micro_batches
    if parts > spec.task.batch_size or not _takes_parts(spec) or _normalises_by_batch(spec):
        return None
    return spec.task.model_copy(update={"micro_batches": parts})


def advice(spec: RunSpec) -> str:
    """What to do about a run that does not fit, in one line."""
    task = spec.task
    ways = []
    if 2 * task.micro_batches <= task.batch_size and _takes_parts(spec):
        ways.append(f"micro_batches = {2 * task.micro_batches} in [task]")
    if task.batch_size > 1:
        ways.append(f"a batch_size below {task.batch_size}")
    ways.append(f"fewer examples than {spec.measure.examples} in [measure]")
    return f"out of memory; try {', '.join(ways)}, fewer workers at a time, or a larger device"


def free_memory() -> None:
    """Give back what the attempt that failed held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _takes_parts(spec: RunSpec) -> bool:
    name = spec.optimizer.name
    entry = OPTIMIZERS.get(name)
    if entry is not None and entry.needs_examples:
        return False
    factory = entry.factory if entry is not None else load_class(name)
    return issubclass(factory, SharpnessAware) and not spec.optimizer.parameters.get("m_sharpness")


def _normalises_by_batch(spec: RunSpec) -> bool:
    data = loaded(spec.task.dataset)
    with torch.device("meta"):
        network: nn.Module = build_model(spec.task.model, data.shape, data.classes)
    return any(isinstance(module, _BatchNorm) for module in network.modules())
