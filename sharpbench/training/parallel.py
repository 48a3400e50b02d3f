"""One training over several processes, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InvalidInput


@dataclass(frozen=True)
class Ranks:
    """Which part of a mini-batch this process takes: rank ``rank`` of ``count``, ``local`` on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This rank's part of a mini-batch.

        Raises:
            InvalidInput: fewer examples than ranks.

        >>> Ranks(1, 2).share(torch.arange(5)).tolist()
        [3, 4]
        """
        if self.count == 1:
            return rows
        if len(rows) < self.count:
            raise InvalidInput(
                f"a mini-batch of {len(rows)} can't be shared by {self.count} processes; "
                "enlarge batch_size or start fewer"
            )
        return rows.tensor_split(self.count)[self.rank]

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network whose ``backward`` averages gradients over the ranks; itself when there is one rank.

        BatchNorm is synchronised where torch can (CUDA); on CPU each rank normalises with its own part, and
        rank 0's running statistics count.
        """
        if self.count == 1:
            return model
        if device.type == "cuda":
            return DistributedDataParallel(
                nn.SyncBatchNorm.convert_sync_batchnorm(model), device_ids=[device.index]
            )
        return DistributedDataParallel(model)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks."""
        if self.count > 1:
            dist.all_reduce(value)
        return value


@contextmanager
def torchrun_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun's environment describes, with the process group up for the block."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks()
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), count, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
