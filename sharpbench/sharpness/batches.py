"""Batches: the data of a loss surface, walked in the same order every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInput, must_be


@dataclass(frozen=True)
class Batch:
    """One mini-batch on the device of the parameters, and how many examples it holds."""

    inputs: Any
    targets: Any
    count: int

    def first(self, examples: int) -> Batch:
        """Its first examples."""
        if self.count <= examples:
            return self
        cut = [_slice(value, 0, examples, self.count) for value in (self.inputs, self.targets)]
        return Batch(cut[0], cut[1], examples)


class Batches:
    """``(inputs, targets)``, cut into slices of ``batch_size``; or any re-iterable of such pairs.

    Raises:
        InvalidInput: no examples, inputs and targets of different length, a one-shot iterator, or a
            ``batch_size`` together with data that are already in batches.

    Example:
        >>> x, y = torch.zeros(5, 2), torch.zeros(5)
        >>> [b.count for b in Batches((x, y), batch_size=2, device=torch.device("cpu"))]
        [2, 2, 1]
    """

    def __init__(self, data: Any, batch_size: int | None, device: torch.device) -> None:
        self.device = device
        self.batch_size = batch_size
        if batch_size is not None and batch_size < 1:
            raise must_be("batch_size", ">= 1", batch_size)
        self.pair = data if _is_pair(data) else None
        if self.pair is None:
            if isinstance(data, Tensor) or not isinstance(data, Iterable):
                raise must_be(
                    "data", "(inputs, targets) or a re-iterable of such batches", type(data).__name__
                )
            if isinstance(data, Iterator):
                raise InvalidInput(
                    "data must be re-iterable, but got a one-shot iterator; pass the loader itself or a list"
                )
            if batch_size is not None:
                raise InvalidInput(
                    "batch_size applies to (inputs, targets); these data are already in batches"
                )
            self.iterable: Iterable[Any] = data
        else:
            self.pair = _to(self.pair, device)
            inputs, targets = self.pair
            length = _length(targets)
            if length == 0:
                raise InvalidInput("data hold no examples; a loss surface needs at least one")
            if isinstance(inputs, Tensor) and len(inputs) != length:
                raise InvalidInput(f"data hold {len(inputs)} inputs but {length} targets")

    def halve(self) -> bool:
        """Cut every batch in two from now on (memory ran out); ``False`` when they hold one example each."""
        largest = max((batch.count for batch in self), default=1)
        self.batch_size = max(1, (largest + 1) // 2)
        return largest > 1

    def __iter__(self) -> Iterator[Batch]:
        for inputs, targets in self._items():
            count = _length(targets)
            size = min(self.batch_size or count, count)
            if size == count:
                if count:
                    yield Batch(inputs, targets, count)
                continue
            for start in range(0, count, size):
                stop = min(start + size, count)
                yield Batch(
                    _slice(inputs, start, stop, count), _slice(targets, start, stop, count), stop - start
                )

    def _items(self) -> Iterator[tuple[Any, Any]]:
        if self.pair is not None:
            yield self.pair
            return
        for item in self.iterable:
            if not (isinstance(item, tuple | list) and len(item) == 2):
                raise must_be("each batch", "a pair (inputs, targets)", type(item).__name__)
            inputs, targets = _to(item, self.device)
            yield inputs, targets


def _is_pair(data: Any) -> bool:
    """A pair of tensors (or of dicts/tuples of tensors), not a list of two batches."""
    if not (isinstance(data, tuple | list) and len(data) == 2):
        return False
    return isinstance(data[1], Tensor | dict) or isinstance(data[0], Tensor | dict)


def _length(value: Any) -> int:
    if isinstance(value, Tensor):
        return len(value) if value.ndim else 1
    if isinstance(value, dict):
        return _length(next(iter(value.values())))
    if isinstance(value, tuple | list) and value:
        return _length(value[0])
    raise must_be("targets", "a tensor, or a dict or tuple of tensors", type(value).__name__)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        if value.is_inference():  # made under inference_mode: autograd wants an ordinary copy
            with torch.inference_mode(False):
                value = value.clone()
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_to(item, device) for item in value)
    return value


def _slice(value: Any, start: int, stop: int, count: int) -> Any:
    if isinstance(value, Tensor):
        # What is not one row an example (a mask shared by all, a scalar) goes with every slice.
        return value[start:stop] if value.ndim and len(value) == count else value
    if isinstance(value, dict):
        return {key: _slice(item, start, stop, count) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_slice(item, start, stop, count) for item in value)
    return value
