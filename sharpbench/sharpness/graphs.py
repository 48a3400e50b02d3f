"""GradientGraphs: each batch's gradient with its graph, kept between products where memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..errors import SharpbenchError
from ..tape import Tape
from .batches import Batch
from .flat import whole
from .memory import free_memory, out_of_memory
from .replay import Replays, replay

# Share of the memory now free that kept graphs may take; products need room beside them.
SHARE_OF_FREE_MEMORY = 0.4
BUILD = Callable[[Batch], list[Tensor]]


class NoSecondDerivative(SharpbenchError):
    """An operator of the model can't be differentiated twice; the message is autograd's own."""


class GradientGraphs:
    """Graphs of ``grad l_b`` by batch: the first product builds them, later ones only walk back through them.

    Keeping a graph saves a forward and a backward pass, one gradient of about three. One graph is always
    kept (it must exist anyway); more are while they fit in ``budget`` bytes, by the size of the tensors
    autograd saved for the first one.
    """

    def __init__(self, parameters: Sequence[Tensor], budget: int | None = None) -> None:
        self.parameters = parameters
        self.budget = budget
        self.kept: dict[int, tuple[Batch, list[Tensor]]] = {}
        self.bytes_per_example: float | None = None
        self.replays = Replays(parameters)
        self._spent = 0.0
        self._version = -1
        self._total: int | None = None

    def clear(self) -> None:
        """Free every kept graph."""
        self.kept.clear()
        self.replays.clear()
        self._spent = 0.0
        self._total = None

    def stop_keeping(self) -> bool:
        """Free the graphs and keep no more than one batch's; whether that frees anything."""
        freed = len(self.kept) > 1
        self.clear()
        self.budget = 0
        return freed

    def walk(
        self, batches: Iterable[Batch], build: BUILD
    ) -> Iterator[tuple[Batch, list[Tensor], int | None]]:
        """(batch, gradient with its graph, its index if the graph outlives this block of products)."""
        version = sum(p._version for p in self.parameters)
        if version != self._version:  # the weights have changed in place
            self.clear()
            self._version = version
        if self._total is not None and self._total == len(self.kept):
            yield from ((batch, gradient, index) for index, (batch, gradient) in self.kept.items())
            return
        total = 0
        for index, batch in enumerate(batches):
            total += 1
            if index in self.kept:
                yield (*self.kept[index], index)
                continue
            gradient = self._build(batch, build)
            keep = self._affordable(batch)
            if keep:
                self.kept[index] = (batch, gradient)
            yield batch, gradient, index if keep else None
        self._total = total

    def product(
        self, batch: Batch, gradient: list[Tensor], row: list[Tensor], kept: int | None, last: bool
    ) -> Sequence[Tensor]:
        """:func:`product` of a gradient that ``walk`` gave; a graph not kept is freed with its ``last``."""
        if kept is None:
            return product(gradient, self.parameters, row, not last)
        program = self.replays.program(kept)
        if program is not None:
            return replay(program, row)
        if not self.replays.due(kept, (self.bytes_per_example or 0.0) * batch.count):
            return product(gradient, self.parameters, row, True)
        with Tape(row) as tape:
            found = product(gradient, self.parameters, row, True)
        self.replays.record(kept, tape, found)
        return found

    def _build(self, batch: Batch, build: BUILD) -> list[Tensor]:
        if self.bytes_per_example is not None:
            return build(batch)
        sizes: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in self.parameters}
        # Handed to autograd by number: a node that held its own result would never be freed.
        saved: list[Tensor] = []

        def pack(tensor: Tensor) -> int:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                sizes[storage.data_ptr()] = storage.nbytes()
            saved.append(tensor)
            return len(saved) - 1

        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, saved.__getitem__):
                build(batch)
        except RuntimeError as error:
            # torch.func, used inside the model, does not run under such hooks, and sparse tensors have no
            # storage: the graph is then taken for too large to keep another beside it.
            if out_of_memory(error):
                raise
            self.bytes_per_example = math.inf
            return build(batch)
        saved.clear()
        self.bytes_per_example = sum(sizes.values()) / batch.count
        # Without hooks from now on: they would cost every product a little.
        return build(batch)

    def _affordable(self, batch: Batch) -> bool:
        size = (self.bytes_per_example or 0.0) * batch.count
        if self.budget is None:
            self.budget = int(SHARE_OF_FREE_MEMORY * free_memory(self.parameters[0].device))
        if self.kept and self._spent + size > self.budget:
            return False
        self._spent += size
        return True


def product(
    gradient: list[Tensor], parameters: Sequence[Tensor], row: list[Tensor], retain: bool
) -> Sequence[Tensor]:
    """One Hessian-vector product of one batch: ``d(g^T v)/dx``, in pieces shaped like the parameters.

    Raises:
        NoSecondDerivative: an operator on the way can't be differentiated twice.
    """
    # Constant components (a loss linear in them) carry no graph and contribute nothing.
    active = [i for i, g in enumerate(gradient) if g.requires_grad]
    if not active:
        return [torch.zeros_like(p) for p in parameters]
    try:
        found = torch.autograd.grad(
            [gradient[i] for i in active],
            parameters,
            [row[i].to(gradient[i].dtype) for i in active],
            retain_graph=retain,
            allow_unused=True,
            materialize_grads=True,
        )
    except (RuntimeError, NotImplementedError) as error:
        signs = ("derivative for", "once_differentiable", "double backward", "not implemented", "twice")
        if any(sign in str(error) for sign in signs) and "second time" not in str(error):
            raise NoSecondDerivative(str(error).split("\n")[0]) from error
        raise
    return whole(found)
