"""The gradient of a small network, recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..tape import Program, Tape

# Weights up to which a network is small: beyond, the kernels take longer than all that lies between them.
LARGEST = 100_000


class RecordedGradient:
    """Loss, logits and gradients of a mini-batch by one straight line of kernels.

    A gradient of a small network spends a quarter of its time between the kernels: in modules, in autograd's
    graph, in results nobody asks for (benchmarks/results/recorded.md). All of that is the same in every
    step, so the kernels of the first gradient are written down (:class:`~sharpbench.tape.Tape`),
    and later ones run those alone.

    The second gradient of each shape is evaluated both ways. Only if loss, logits, gradients and buffers
    are equal is the recording used; otherwise, and for networks that draw random numbers or look at values,
    autograd goes on.

    Args:
        model: in training mode. Its parameters and buffers are read and written where they lie; when a
            parameter moves to other memory (``p.data = …``), all is recorded anew.
        loss: (logits, labels) → mean loss.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, x, y = nn.Linear(2, 3), torch.ones(4, 2), torch.tensor([0, 1, 2, 0])
        >>> recorded = RecordedGradient(model, nn.functional.cross_entropy)
        >>> losses = [recorded(x, y)[0].item() for _ in range(3)]
        >>> len(set(losses)), recorded.replays, tuple(model.weight.grad.shape)
        (1, 1, (3, 2))
    """

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.model, self.loss = model, loss
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.buffers = list(model.buffers())
        #: gradients that came from a recording
        self.replays = 0
        self._programs: dict[object, Program | None] = {}
        self._trusted: set[object] = set()
        self._places = self._memory()

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and logits, without graph; the gradients are in ``p.grad``."""
        kind = x.shape, y.shape, x.dtype
        if self._places != (places := self._memory()):
            self._places = places
            self._programs.clear()
            self._trusted.clear()
        if kind not in self._programs:
            loss, logits, self._programs[kind] = self._record(x, y)
            return loss, logits
        program = self._programs[kind]
        if program is None:
            return self._evaluate(x, y)
        if kind not in self._trusted:
            return self._compare(kind, program, x, y)
        self.replays += 1
        with torch.no_grad():
            loss, logits, *gradients = program(x, y)
        for p, gradient in zip(self.parameters, gradients, strict=True):
            p.grad = gradient
        return loss, logits

    def _memory(self) -> list[int]:
        return [p.data_ptr() for p in self.parameters]

    def _evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        for p in self.parameters:
            p.grad = None
        logits = self.model(x)
        loss = self.loss(logits, y)
        loss.backward()
        return loss.detach(), logits.detach()

    def _record(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Program | None]:
        with Tape([x, y]) as tape:
            logits = self.model(x)
            loss = self.loss(logits, y)
            gradients = torch.autograd.grad(loss, self.parameters, torch.ones_like(loss), allow_unused=True)
        program = None
        pairs = list(zip(self.parameters, gradients, strict=True))
        # Autograd gives a gradient that is missing, laid out otherwise or shared a treatment of its own.
        usual = all(g is not None and g.stride() == p.stride() for p, g in pairs)
        if usual and _own_memory([loss, logits, *gradients], [x, y, *self.parameters, *self.buffers]):
            program = tape.program([loss, logits, *gradients])
        for p, gradient in pairs:
            p.grad = gradient if gradient is None else torch.empty_like(p).copy_(gradient)
        return loss.detach(), logits.detach(), program

    def _compare(self, kind: object, program: Program, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        before = [b.clone() for b in self.buffers]
        try:
            with torch.no_grad():
                replayed = [*program(x, y), *(b.clone() for b in self.buffers)]
        except RuntimeError:  # say, a view that this memory doesn't allow
            replayed = []
        with torch.no_grad():
            for b, value in zip(self.buffers, before, strict=True):
                b.copy_(value)
        loss, logits = self._evaluate(x, y)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        expected = [loss, logits, *gradients, *self.buffers]
        if len(replayed) == len(expected) and all(map(torch.equal, replayed, expected)):
            self._trusted.add(kind)
        else:
            self._programs[kind] = None
        return loss, logits


def _own_memory(results: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether no result shares its memory with another one or with what is read."""
    places = [t.untyped_storage().data_ptr() for t in results]
    read = {t.untyped_storage().data_ptr() for t in others}
    return len(set(places)) == len(places) and read.isdisjoint(places)
