"""Named random streams: adding a measure or an augmentation never changes the rest of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed that depends on the run's seed and the stream's name only.

    >>> stream_seed(0, "order") == stream_seed(0, "order") != stream_seed(0, "init")
    True
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of the named stream."""
    return torch.Generator(device).manual_seed(stream_seed(seed, name))


@contextmanager
def global_stream(seed: int, name: str) -> Iterator[None]:
    """The global generators (parameter initialisation, dropout) set to a named stream in the block."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream_seed(seed, name))
        yield
