"""A network evaluated in float64, even where its forward pass asks for less."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .batches import Batch
from .evaluation import Evaluator
from .graphs import GradientGraphs
from .structures import map_tensors

if TYPE_CHECKING:
    from .surface import LossSurface

LOWER = (torch.float32, torch.float16, torch.bfloat16)
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


class _Doubled(TorchFunctionMode):
    """Every cast to a lower floating type becomes one to float64, and every tensor of one is cast."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _CASTS:
            return args[0].double()
        # What is written to must stay the tensor that it is.
        own = 1 if getattr(func, "__name__", "").endswith("_") else 0
        args = (*args[:own], *(_raised(value) for value in args[own:]))
        return func(*args, **{key: _raised(value) for key, value in (kwargs or {}).items()})


def _raised(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float64 if value in LOWER else value
    if isinstance(value, Tensor):
        return value.double() if value.dtype in LOWER else value
    if type(value) in (tuple, list):
        return type(value)(_raised(item) for item in value)
    return value


@contextmanager
def all_double() -> Iterator[None]:
    """Inside: float64 by default, and instead of every lower floating type.

    >>> with all_double():
    ...     x = torch.ones(2).float() + torch.ones(2, dtype=torch.float16)
    >>> x.dtype
    torch.float64
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(before)


def double_twin(surface: LossSurface, batches: Sequence[Batch] | None = None) -> LossSurface | None:
    """The same surface in float64, of a copy of the model; ``None`` where the model can't be copied.

    To be used inside :func:`all_double`. With ``batches``, of those examples alone, on this rank alone.
    """
    positions = {id(p): i for i, p in enumerate(surface.model.parameters())}
    try:
        model = copy.deepcopy(surface.model).double()
    except Exception:  # weights computed by hooks, handles to files, locks
        return None
    parameters = list(model.parameters())
    if len(parameters) != len(positions):
        return None
    some = [next(iter(surface.batches))] if batches is None else batches
    twin = surface.restricted([doubled(batch) for batch in some])
    if batches is None:
        twin.batches = _DoubledBatches(surface)  # type: ignore[assignment]
        twin.shards, twin._weighting, twin._whole = surface.shards, surface._weighting, surface._whole
    twin.model = model
    twin.parameters = [parameters[positions[id(p)]] for p in surface.parameters]
    twin.dtype = torch.float64
    twin.formulation, twin.form = "double_backward", "own"
    twin.evaluate = Evaluator(model, surface.evaluate.loss_fn, twin.parameters)
    twin.evaluate.needs_grad = surface.evaluate.needs_grad
    twin.graphs = GradientGraphs(twin.parameters, 0)
    return twin


def doubled(batch: Batch) -> Batch:
    """The batch with its floating tensors in float64."""
    return replace(
        batch, inputs=map_tensors(batch.inputs, _double), targets=map_tensors(batch.targets, _double)
    )


class _DoubledBatches:
    def __init__(self, surface: LossSurface) -> None:
        self.surface = surface

    def __iter__(self) -> Iterator[Batch]:
        return (doubled(batch) for batch in self.surface.batches)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
