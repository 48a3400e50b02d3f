"""Weights moved and put back, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Perturbation:
    """Moves parameters by e and restores them by copying, never by subtraction: (x + e) - e is not x.

    The copies live in buffers that are allocated once and used again by every step: on a CPU the
    page faults of fresh memory cost several times what the copying does.
    """

    def __init__(self) -> None:
        self._copies: dict[Tensor, Tensor] = {}

    @contextmanager
    def of(self, params: Sequence[Tensor], e: Sequence[Tensor]) -> Iterator[None]:
        """``params`` are ``x + e`` inside the block and x after it, also when the block raises.

        Called, as all of a step runs, under ``torch.no_grad()``.
        """
        params = list(params)
        copies = [self._copy_of(p) for p in params]
        torch._foreach_copy_(copies, params)
        try:
            torch._foreach_add_(params, list(e))
            yield
        finally:
            torch._foreach_copy_(params, copies)

    def _copy_of(self, p: Tensor) -> Tensor:
        found = self._copies.get(p)
        if found is None or found.shape != p.shape or found.device != p.device or found.dtype != p.dtype:
            found = self._copies[p] = torch.empty_like(p, requires_grad=False)
        return found

    def __deepcopy__(self, memo: object) -> Perturbation:
        return Perturbation()  # nothing in it outlives a step

    def __reduce__(self) -> tuple[type[Perturbation], tuple[()]]:
        return Perturbation, ()
