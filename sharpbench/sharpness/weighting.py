"""Weighting: how much the loss of each batch counts in the loss over the data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ..errors import InvalidInput
from .batches import Batch, Weight
from .shards import Shards


@dataclass(frozen=True)
class Weighting:
    """``L = sum_b (w_b / W) l_b``: the shares of batches, over all ranks of a process group.

    Args:
        examples: N, the number of examples.
        total: W, the sum of the batches' weights; 1 where the loss is a sum.
        single: one batch is all there is.

    >>> batches = [Batch(torch.zeros(n, 1), torch.zeros(n), n) for n in (1, 3)]
    >>> weighting = Weighting.of(batches, None, Shards(False), torch.device("cpu"))
    >>> weighting.examples, [weighting.share(batch) for batch in batches]
    (4, [0.25, 0.75])
    """

    examples: int
    total: float
    single: bool

    @classmethod
    def of(cls, batches: Iterable[Batch], weight: Weight, shards: Shards, device: torch.device) -> Weighting:
        """Add up examples and weights.

        Raises:
            InvalidInput: no examples, or none of a weight above 0.
        """
        found = shards.together(lambda: [(batch.count, batch.weight) for batch in batches], device)
        sums = torch.tensor([sum(n for n, _ in found), sum(w for _, w in found)], dtype=torch.float64)
        counts, weights = shards.sum(sums.to(device) if shards.active else sums).tolist()
        if counts == 0 or weights == 0:
            what = "examples" if weight is None else "examples of a weight above 0"
            raise InvalidInput(f"data hold no {what}; a loss surface needs at least one")
        total = 1.0 if weight == "sum" else weights
        return cls(int(counts), total, len(found) == 1 and found[0][1] == total)

    def share(self, batch: Batch) -> float:
        """``w_b / W``."""
        return batch.weight / self.total
