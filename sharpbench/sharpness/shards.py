"""Shards: the data of one surface spread over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InvalidInput

Result = TypeVar("Result")


class Shards:
    """Sums over ranks, one all-reduce for a whole block; without ranks, nothing happens.

    Every rank holds the same weights and its own shard of the examples, and calls the same methods in the
    same order. Private random streams have the same seed everywhere, so all ranks draw the same probes and
    take the same decisions.

    Raises:
        InvalidInput: ``distributed`` without an initialised process group.

    >>> float(Shards(False).sum(torch.tensor(2.0)))
    2.0
    """

    def __init__(self, distributed: bool) -> None:
        if distributed and not (dist.is_available() and dist.is_initialized()):
            raise InvalidInput(
                "distributed=True needs an initialised process group; call "
                "torch.distributed.init_process_group first (torchrun sets its environment)"
            )
        self.active = distributed and dist.get_world_size() > 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.active:
            dist.all_reduce(values)
        return values

    def together(self, action: Callable[[], Result], device: torch.device) -> Result:
        """Run ``action`` on every rank; if one refuses its shard, all do, instead of waiting for it."""
        if not self.active:
            return action()
        error: InvalidInput | None = None
        result: Result | None = None
        try:
            result = action()
        except InvalidInput as caught:
            error = caught
        refused = self.sum(torch.tensor([float(error is not None)], device=device))
        if error is not None:
            raise error
        if float(refused) or result is None:
            raise InvalidInput("another rank refused its shard of the data; see its message")
        return result
