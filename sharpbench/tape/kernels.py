"""One kernel of a computation, by what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._ops import OpOverload


class Variable:
    """A tensor's place in the program."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Call:
    """One kernel: what it is called with (tensors as variables) and the variables it gives.

    Attributes:
        inputs: the variables among the arguments, at any depth.
        several: whether it gives a sequence of tensors, were it of one.
    """

    def __init__(
        self,
        operator: OpOverload,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        results: list[Variable | None],
        several: bool = False,
    ) -> None:
        self.operator, self.arguments, self.options, self.results = operator, arguments, options, results
        self.several = several
        self.inputs: list[Variable] = []
        map_leaves(self._gather, (arguments, options))

    @property
    def result(self) -> Variable:
        """The first it gives, of a kernel that is known to give a tensor."""
        first = self.results[0]
        assert first is not None
        return first

    def _gather(self, leaf: Any) -> None:
        if isinstance(leaf, Variable):
            self.inputs.append(leaf)

    def with_inputs(self, change: dict[Variable, Variable]) -> Call:
        """The same call of other variables."""
        if change.keys().isdisjoint(self.inputs):
            return self
        arguments, options = map_leaves(
            lambda leaf: change.get(leaf, leaf) if isinstance(leaf, Variable) else leaf,
            (self.arguments, self.options),
        )
        return Call(self.operator, arguments, options, self.results, self.several)


def map_leaves(change: Callable[[Any], Any], value: Any) -> Any:
    """``change`` of every leaf of nested lists, tuples and dictionaries."""
    if isinstance(value, tuple):
        return tuple([map_leaves(change, v) for v in value])
    if isinstance(value, list):
        return [map_leaves(change, v) for v in value]
    if isinstance(value, dict):
        return {k: map_leaves(change, v) for k, v in value.items()}
    return change(value)
