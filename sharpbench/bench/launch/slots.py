"""Slots: how many runs side by side on one machine, and the device of each."""

from __future__ import annotations

import os

from ...errors import InvalidInput, must_be
from . import Settings


def devices(settings: Settings, threads: int, gpus: int | None = None) -> list[str | None]:
    """The device of every slot.

    Without a GPU: as many slots as asked for, or one for every ``threads`` cores. With ``device="cuda"``:
    ``per_gpu`` on each, the first slots on different GPUs, so that fewer workers than slots share none.

    Args:
        settings: ``device``, ``workers`` and ``per_gpu`` count.
        threads: CPU threads of a run.
        gpus: how many there are; None asks torch.

    Raises:
        InvalidInput: counts below one, no GPU, or more workers than slots.

    >>> devices(Settings(device="cuda", per_gpu=2), threads=1, gpus=2)
    ['cuda:0', 'cuda:1', 'cuda:0', 'cuda:1']
    >>> devices(Settings(device="cpu", workers=3), threads=1)
    ['cpu', 'cpu', 'cpu']
    """
    if settings.per_gpu < 1:
        raise must_be("per_gpu", ">= 1", settings.per_gpu)
    if settings.device != "cuda":
        return [settings.device] * worker_count(settings.workers, threads)
    if gpus is None:
        import torch

        gpus = torch.cuda.device_count()
    if gpus < 1:
        raise InvalidInput("device 'cuda': torch sees no CUDA device here; choose 'cpu'")
    slots: list[str | None] = [f"cuda:{gpu}" for _ in range(settings.per_gpu) for gpu in range(gpus)]
    wanted = worker_count(settings.workers, threads) if settings.workers is not None else len(slots)
    if wanted > len(slots):
        cause = f"{gpus} GPUs with {settings.per_gpu} runs each; --per-gpu allows more"
        raise must_be("workers", f"<= {len(slots)}", wanted, cause)
    return slots[:wanted]


def worker_count(asked: int | None, threads: int) -> int:
    """How many workers: as asked, or one for every ``threads`` cores this process may use.

    >>> worker_count(3, threads=1)
    3
    """
    if asked is not None and asked < 1:
        raise must_be("workers", ">= 1", asked)
    return asked or max(1, available_cores() // threads)


def available_cores() -> int:
    """Cores this process may use (an affinity mask, as batch systems set it, counts)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
