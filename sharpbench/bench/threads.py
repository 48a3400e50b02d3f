"""The number of threads of a block: part of what decides the last bits of a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch, NumPy and SciPy compute with ``count`` threads in the block, and as before after it.

    The number of threads changes the order of sums. A process that carries out a run and then computes
    something else would otherwise do so with the run's number of threads. NumPy's and SciPy's own threads
    would also compete with PyTorch's for the cores.

    Args:
        count: threads of one operation, at least 1.

    Example:
        >>> before = torch.get_num_threads()
        >>> with threads(1):
        ...     torch.get_num_threads()
        1
        >>> torch.get_num_threads() == before
        True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
