"""Batches: the data of a loss surface, walked in the same order every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..checks import check_count
from ..errors import InvalidInput, must_be
from .structures import has_rows, lengths, rows, to_device

# What the loss of a batch is divided by: None for the number of examples.
Weight = Literal["sum"] | Callable[[Any, Any], Any] | None
PAIR = "(inputs, targets)"
WHAT = "what weight(inputs, targets) returns"


@dataclass(frozen=True)
class Batch:
    """One mini-batch on the device of the parameters, and how many examples it holds.

    >>> batch = Batch(torch.zeros(4, 2), torch.tensor([0, 0, 1, -100]), 4, lambda x, y: (y >= 0).sum())
    >>> batch.weight, [(part.count, part.weight) for part in batch.cut([3, 1])]
    (3.0, [(3, 3.0), (1, 0.0)])
    """

    inputs: Any
    targets: Any
    count: int
    weigh: Weight = None

    @cached_property
    def weight(self) -> float:
        """How much the loss of this batch counts beside that of others.

        Raises:
            InvalidInput: the weight function gives something other than a finite number >= 0.
        """
        if self.weigh is None:
            return float(self.count)
        if self.weigh == "sum":
            return 1.0
        found = self.weigh(self.inputs, self.targets)
        try:
            value = float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise must_be(
                "what weight(inputs, targets) returns", "one number", type(found).__name__
            ) from error
        if not (math.isfinite(value) and value >= 0):
            raise must_be("what weight(inputs, targets) returns", "finite and >= 0", value)
        return value

    @property
    def divisible(self) -> bool:
        """Whether inputs and targets have rows that belong to examples, so that some can be taken out."""
        return self.count > 1 and all(
            has_rows(value, self.count) or _is_constant(value) for value in (self.inputs, self.targets)
        )

    def take(self, chosen: Tensor) -> Batch:
        """The examples of these indices, shape ``(k,)``.

        Raises:
            InvalidInput: nothing says which rows belong to which example.
        """
        if not self.divisible:
            if len(chosen) == self.count:
                return self
            raise InvalidInput(f"examples can't be taken out of a batch: {_sizes(self)}")
        chosen = chosen.cpu()
        parts = [rows(value, chosen, self.count) for value in (self.inputs, self.targets)]
        return Batch(parts[0], parts[1], len(chosen), self.weigh)

    def first(self, examples: int) -> Batch:
        """Its first examples; the whole where it has no more, or where none can be taken out."""
        if self.count <= examples or not self.divisible:
            return self
        return self.take(torch.arange(examples))

    def cut(self, sizes: Iterable[int]) -> Iterator[Batch]:
        """Consecutive parts of these sizes."""
        start = 0
        for size in sizes:
            yield self if size == self.count else self.take(torch.arange(start, start + size))
            start += size


class Batches:
    """``(inputs, targets)``, cut into slices of ``batch_size``; or any re-iterable of such pairs.

    Inputs and targets are tensors, or dicts, tuples, lists and dataclasses of tensors. Batches of weight
    zero (such as texts that are all padding) are left out.

    Raises:
        InvalidInput: no examples, inputs and targets that can't be cut where ``batch_size`` asks for it, a
            one-shot iterator, a ``batch_size`` together with data that are already in batches, or a
            ``weight`` that is neither None, "sum" nor a function.

    Example:
        >>> x, y = torch.zeros(5, 2), torch.zeros(5)
        >>> [b.count for b in Batches((x, y), batch_size=2, device=torch.device("cpu"))]
        [2, 2, 1]
    """

    def __init__(
        self, data: Any, batch_size: int | None, device: torch.device, weight: Weight = None
    ) -> None:
        self.device = device
        self.batch_size = batch_size if batch_size is None else check_count("batch_size", batch_size)
        if not (weight is None or weight == "sum" or callable(weight)):
            raise must_be("weight", 'None, "sum" or a function of (inputs, targets)', weight)
        self.weight = weight
        self.pair: Batch | None = None
        if _is_pair(data):
            self.pair = self._batch(data[0], data[1], alone=True)
            if self.pair.count == 0:
                raise InvalidInput("data hold no examples; a loss surface needs at least one")
            if batch_size is not None and batch_size < self.pair.count and not self.pair.divisible:
                raise InvalidInput(
                    f"batch_size can't cut these data: {_sizes(self.pair)}; pass a list of batches "
                    f"{PAIR} instead, or leave batch_size out"
                )
            return
        if isinstance(data, Tensor) or not isinstance(data, Iterable):
            raise must_be(
                "data", f"{PAIR} or a re-iterable of such batches", type(data).__name__,
                "wrap a Dataset in a DataLoader" if hasattr(data, "__getitem__") else "",
            )  # fmt: skip
        if isinstance(data, Iterator):
            raise InvalidInput(
                "data must be re-iterable, but got a one-shot iterator; pass the loader itself or a list"
            )
        if batch_size is not None:
            raise InvalidInput(f"batch_size applies to {PAIR}; these data are already in batches")
        self.iterable: Iterable[Any] = data

    def halve(self) -> bool:
        """Cut every batch in two from now on (memory ran out); ``False`` where that is not possible."""
        largest = max((batch for batch in self), key=lambda batch: batch.count, default=None)
        if largest is None or not largest.divisible:
            return False
        self.batch_size = (largest.count + 1) // 2
        return True

    def __iter__(self) -> Iterator[Batch]:
        for whole in self.wholes():
            for batch in whole.cut(self.sizes(whole)):
                if batch.count and batch.weight > 0:
                    yield batch

    def wholes(self) -> Iterator[Batch]:
        """The data before anything is cut: the pair as one batch, or the batches as they were given."""
        if self.pair is not None:
            yield self.pair
            return
        for item in self.iterable:
            if not (isinstance(item, tuple | list) and len(item) == 2):
                raise must_be("each batch", f"a pair {PAIR}", *_unpaired(item))
            yield self._batch(item[0], item[1], alone=False)

    def sizes(self, whole: Batch) -> list[int]:
        """How many examples each part of a batch gets."""
        size = min(self.batch_size or whole.count, whole.count)
        if size == whole.count or not whole.divisible:
            return [whole.count]
        return [min(size, whole.count - start) for start in range(0, whole.count, size)]

    def _batch(self, inputs: Any, targets: Any, alone: bool) -> Batch:
        for name, value in (("inputs", inputs), ("targets", targets)):
            if isinstance(value, np.ndarray):
                raise must_be(name, "a tensor", "a NumPy array", "convert it with torch.as_tensor")
        count = _count(inputs, targets, alone)
        return Batch(to_device(inputs, self.device), to_device(targets, self.device), count, self.weight)


def _is_pair(data: Any) -> bool:
    """(inputs, targets), and not a list of two batches."""
    if not (isinstance(data, tuple | list) and len(data) == 2):
        return False
    batches = [isinstance(item, tuple | list) and len(item) == 2 for item in data]
    return not all(batches) or hasattr(data, "_fields")


def _unpaired(item: Any) -> tuple[str, str]:
    """What came instead of a pair, and how to make it one."""
    if isinstance(item, Mapping):
        return "a dict", "for example [(batch, batch['labels']) for batch in loader]: the model gets the dict"
    if isinstance(item, tuple | list):
        return f"{len(item)} values", "give the model several inputs as ((first, second), targets)"
    return type(item).__name__, "without targets: (inputs, None)"


def _count(inputs: Any, targets: Any, alone: bool) -> int:
    """How many examples: by the targets, and where they have no rows (a scalar, None) by the inputs.

    A scalar target inside a list of batches belongs to a single example.
    """
    found, others = lengths(targets), lengths(inputs)
    shared = [size for size in found if size in others]
    if not found:
        found = others if alone or not isinstance(targets, Tensor) else []
    return (shared or found or [1])[0]


def _is_constant(value: Any) -> bool:
    """Whether a value is the same for every example: a scalar, a name or nothing."""
    return (
        value is None
        or isinstance(value, int | float | str)
        or (isinstance(value, Tensor) and not value.ndim)
    )


def _sizes(batch: Batch) -> str:
    sizes = [lengths(value) for value in (batch.inputs, batch.targets)]
    if batch.count == 1 or not all(sizes):
        return "they have no rows that belong to single examples"
    return f"they hold {sizes[0][0]} inputs but {sizes[1][0]} targets"
