"""A computation written down kernel by kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from .kernels import Call, Variable, map_leaves
from .straight_line import Program, compiled, fused, made_once, simplified


class Tape(TorchDispatchMode):
    """Writes down every kernel that runs inside, in order, with the tensors it had.

    Example:
        >>> x = torch.tensor([1.0, -2.0])
        >>> with torch.no_grad(), Tape([x]) as tape:
        ...     y = torch.relu(x * 2)
        >>> double = tape.program([y])
        >>> double(torch.tensor([3.0, -1.0]))
        [tensor([6., 0.])]
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.inputs = [Variable(i) for i in range(len(inputs))]
        self.constants: dict[Variable, Tensor] = {}
        #: why the calls do not tell the computation, if they don't
        self.unfit = ""
        # By identity; the tensors are held, or another one could take a freed one's identity.
        self._known = {id(t): v for t, v in zip(inputs, self.inputs, strict=True)}
        self._held: list[Tensor] = list(inputs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and skipping would import the compiler: a second

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        taken, named = map_leaves(self._argument, (args, options))
        result = func(*args, **options)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.unfit = f"{func} draws random numbers"
        elif torch.Tag.data_dependent_output in func.tags:
            self.unfit = f"{func} depends on the values of tensors"
        several = isinstance(result, tuple | list)
        given = list(result) if several else [result]
        if any(isinstance(each, tuple | list) for each in given):
            self.unfit = f"{func} gives lists of lists"
        results = [self._result(each) for each in given]
        self.calls.append(Call(func, taken, named, results, several))
        return result

    def _new(self, tensor: Tensor) -> Variable:
        variable = self._known[id(tensor)] = Variable(len(self._held))
        self._held.append(tensor)
        return variable

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._known:
            self.constants[self._new(value)] = value
        return self._known[id(value)]

    def _result(self, value: Any) -> Variable | None:
        if not isinstance(value, Tensor):
            return None
        return self._known.get(id(value)) or self._new(value)  # an in-place kernel gives its argument

    def program(self, outputs: Sequence[Tensor], fuse: bool = False) -> Program | None:
        """What computes ``outputs`` from new inputs of the same shapes; None where the tape doesn't tell.

        The kernels are the same, in the same order, on the same memory layouts: so are the bits. With
        ``fuse``, sums of matrix products are formed by the products themselves, which may round otherwise.
        """
        if any(id(t) not in self._known for t in outputs):
            self.unfit = "an output is no kernel's result"
        if self.unfit:
            return None
        wanted = [self._known[id(t)] for t in outputs]
        shapes = {v: tuple(self._held[v.index].shape) for v in self._known.values()}
        calls, wanted = simplified(self.calls, wanted, shapes)
        if fuse:
            calls = fused(calls, wanted, shapes)
        calls, constants = made_once(calls, wanted, self.constants, self._held)
        return compiled(calls, self.inputs, wanted, constants)
