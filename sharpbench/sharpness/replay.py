"""Hessian-vector products of kept graphs as straight lines of kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..tape import Program, Tape

# Weights, and bytes of a batch's kept graph, up to which the time between kernels is worth a recording.
LARGEST = 100_000
LARGEST_GRAPH = 2**26
# The products that a recording costs are soon earned; a graph that is walked only twice is not recorded.
RECORDED_PRODUCT = 3


class Replays:
    """What walks back through a kept gradient graph the same way for every vector.

    The graph and all that autograd saved in it are fixed, so its kernels are too: from the third product on
    they run alone, sums of matrix products in one kernel each, which saves small networks the time between
    the kernels. Such a kernel adds in another order, so a replayed product equals autograd's to rounding.
    Graphs that draw random numbers or look at values are left to autograd.

    Args:
        parameters: of the surface.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.small = sum(p.numel() for p in parameters) <= LARGEST
        self.small &= all(p.device.type == "cpu" for p in parameters)
        self._seen: dict[int, int] = {}
        self._programs: dict[int, Program | None] = {}

    def clear(self) -> None:
        """Forget all: the graphs are gone."""
        self._seen.clear()
        self._programs.clear()

    def program(self, index: int) -> Program | None:
        """The recording of this batch's product, if there is one."""
        return self._programs.get(index)

    def due(self, index: int, graph_bytes: float) -> bool:
        """Whether the next product of this batch is the one to record."""
        if not self.small or graph_bytes > LARGEST_GRAPH or index in self._programs:
            return False
        self._seen[index] = self._seen.get(index, 0) + 1
        return self._seen[index] == RECORDED_PRODUCT

    def record(self, index: int, tape: Tape, product: Sequence[Tensor]) -> None:
        """Keep what the tape saw as this batch's product."""
        self._programs[index] = tape.program(product, fuse=True)


def replay(program: Program, row: Sequence[Tensor]) -> Sequence[Tensor]:
    """One product; pieces shaped like the parameters."""
    with torch.no_grad():
        return program(*row)
