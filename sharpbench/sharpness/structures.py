"""Structures: tensors nested in dicts, tuples, lists and dataclasses, moved, counted and cut by rows."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with ``function`` applied to every tensor; everything else is left as it is.

    Mappings (``dict``, ``UserDict``, …), dataclasses, named tuples and a ``PackedSequence`` keep their type,
    and the value passed in is not changed.

    >>> map_tensors({"x": torch.ones(1), "ids": ["a"]}, lambda t: 2 * t)
    {'x': tensor([2.]), 'ids': ['a']}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, PackedSequence):
        data = function(value.data)
        order = [None if i is None else i.to(data.device) for i in value[2:]]
        return PackedSequence(data, value.batch_sizes, *order)
    if is_structure(value):
        return _rebuilt(value, [map_tensors(item, function) for item in _items(value)])
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """The structure on the device, cut off from any graph that made it.

    Objects of other classes are moved by their own ``.to(device)`` where they have one.
    """

    def moved(tensor: Tensor) -> Tensor:
        if tensor.is_inference():  # made under inference_mode: autograd wants an ordinary copy
            with torch.inference_mode(False):
                tensor = tensor.clone()
        # Another tensor of the same memory: a model may call requires_grad_() on its inputs.
        return tensor.detach().to(device).requires_grad_(tensor.requires_grad)

    if isinstance(value, Tensor | PackedSequence):
        return map_tensors(value, moved)
    if is_structure(value):
        return _rebuilt(value, [to_device(item, device) for item in _items(value)])
    if callable(getattr(value, "to", None)) and not isinstance(value, type):
        return copy.copy(value).to(device)
    return value


def lengths(value: Any) -> list[int]:
    """How many examples these inputs or targets may hold, the likeliest first; empty where nothing says.

    A list of tensors of one length may be several inputs with that many rows, or that many examples; a
    list of anything else is a list of examples.

    >>> lengths(torch.zeros(3, 2)), lengths([torch.zeros(3), torch.zeros(5)]), lengths(None)
    ([3], [2], [])
    """
    if isinstance(value, Tensor):
        return [len(value)] if value.ndim else []
    if isinstance(value, PackedSequence):
        return [int(value.batch_sizes[0])]
    if isinstance(value, np.ndarray):
        return [len(value)] if value.ndim else []
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        sizes = [len(item) if isinstance(item, Tensor) and item.ndim else None for item in value]
        if sizes and sizes[0] is not None and len(set(sizes)) == 1:
            return [sizes[0], len(value)]
        return [len(value)]
    found = (lengths(item) for item in _items(value)) if is_structure(value) else iter(())
    return next((sizes for sizes in found if sizes), [])


def has_rows(value: Any, count: int) -> bool:
    """Whether some part of the structure has one row for each of ``count`` examples."""
    if is_structure(value) and not _lists_examples(value, count):
        return any(has_rows(item, count) for item in _items(value))
    return count in lengths(value)


def rows(value: Any, chosen: Tensor, count: int) -> Any:
    """The chosen ones of ``count`` examples: their rows of every part that has one row for each example.

    What has no such rows (a mask shared by all, a scalar, a name) stays whole.

    Args:
        value: the structure.
        chosen: indices of examples, shape ``(k,)``, int64; a run of consecutive ones gives views.
        count: how many examples the structure holds.

    >>> rows({"x": torch.arange(4), "scale": torch.ones(2)}, torch.tensor([2, 3]), 4)
    {'x': tensor([2, 3]), 'scale': tensor([1., 1.])}
    """
    if isinstance(value, Tensor):
        if not value.ndim or len(value) != count:
            return value
        first = int(chosen[0])
        if value.layout == torch.strided and bool((chosen == torch.arange(first, first + len(chosen))).all()):
            return value[first : first + len(chosen)]
        return value.index_select(0, chosen.to(value.device))
    if isinstance(value, PackedSequence):
        if int(value.batch_sizes[0]) != count:
            return value
        padded, steps = pad_packed_sequence(value, batch_first=True)
        kept = padded.index_select(0, chosen.to(padded.device))
        return pack_padded_sequence(kept, steps[chosen], batch_first=True, enforce_sorted=False)
    if isinstance(value, np.ndarray):
        return value[chosen.numpy()] if value.ndim and len(value) == count else value
    if _lists_examples(value, count):
        return type(value)(value[i] for i in chosen.tolist())
    if is_structure(value):
        return _rebuilt(value, [rows(item, chosen, count) for item in _items(value)])
    return value


def joined(parts: list[Any], counts: list[int]) -> Any:
    """The structures of consecutive examples as one structure of all of them.

    Args:
        parts: outputs of a model, batch by batch.
        counts: how many examples each of them is of.

    Raises:
        ValueError: a part of the structure that is not one row for each example.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        if any(not t.ndim or len(t) != n for t, n in zip(parts, counts, strict=True)):
            raise ValueError("a tensor without one row for each example")
        return torch.cat(parts)
    if first is None:
        return None
    if not is_structure(first) or isinstance(first, PackedSequence):
        raise ValueError(f"parts of type {type(first).__name__} can't be joined")
    columns = zip(*(_items(part) for part in parts), strict=True)
    return _rebuilt(first, [joined(list(column), counts) for column in columns])


def tensors(value: Any) -> Iterable[Tensor]:
    """Every tensor of a structure, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif is_structure(value):
        for item in _items(value):
            yield from tensors(item)


def is_structure(value: Any) -> bool:
    """Whether a value holds other values: a mapping, a list, a tuple or a dataclass."""
    if isinstance(value, type) or isinstance(value, PackedSequence):
        return False
    return isinstance(value, Mapping | tuple | list) or dataclasses.is_dataclass(value)


def _lists_examples(value: Any, count: int) -> bool:
    """Whether this is a list with one entry for each example, rather than several inputs with rows."""
    if not isinstance(value, tuple | list) or hasattr(value, "_fields") or len(value) != count:
        return False
    return not all(isinstance(item, Tensor) and item.ndim and len(item) == count for item in value)


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple | list):
        return list(value)
    return [getattr(value, field.name) for field in dataclasses.fields(value)]


def _rebuilt(value: Any, items: list[Any]) -> Any:
    """A structure of the same type with other items."""
    if isinstance(value, Mapping):
        if type(value) is dict:
            return dict(zip(value, items, strict=True))
        try:
            changed: Any = copy.copy(value)
            for key, item in zip(value, items, strict=True):
                changed[key] = item
            return changed
        except TypeError:  # a mapping that can't be changed
            return dict(zip(value, items, strict=True))
    if isinstance(value, tuple | list):
        make = getattr(value, "_make", type(value))
        return make(items)
    changed = copy.copy(value)
    for field, item in zip(dataclasses.fields(value), items, strict=True):
        object.__setattr__(changed, field.name, item)  # frozen dataclasses too
    return changed
