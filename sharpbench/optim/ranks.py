"""Data-parallel training: what must be the same on every rank, made the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Ranks of the default process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Average each tensor over the ranks, in place; nothing happens with one rank.

    Gradients are averaged by DistributedDataParallel already. This is for what it doesn't see: loss values
    that weigh the gradients, gradients taken of single examples.
    """
    size = world_size()
    if size == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= size
