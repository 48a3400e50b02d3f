"""Parts of an optimizer that remember something from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidInput


class Component:
    """A stateful part: per-parameter memories, scalars and a random generator, all in ``state_dict``.

    Memories are kept by parameter and saved by the parameter's position, as torch's optimizers do.
    """

    def __init__(self) -> None:
        self.memory: dict[str, dict[Tensor, Tensor]] = {}
        self.scalars: dict[str, Any] = {}
        self.generator: torch.Generator | None = None

    def bind(self, params: Sequence[Tensor], names: dict[Tensor, str] | None) -> None:
        """Told once which parameters (and names, where known) it will see."""

    def remembered(self, name: str, params: Sequence[Tensor], initial: Sequence[Tensor]) -> list[Tensor]:
        """The memory ``name`` of each parameter; one that has none yet starts as a copy of ``initial``."""
        table = self.memory.setdefault(name, {})
        for p, start in zip(params, initial, strict=True):
            if p not in table:
                table[p] = start.detach().clone()
        return [table[p] for p in params]

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        """Tensors, numbers and lists only."""
        position = {p: i for i, p in enumerate(params)}
        state: dict[str, Any] = {
            "memory": {
                name: {position[p]: value.clone() for p, value in table.items() if p in position}
                for name, table in self.memory.items()
            },
            "scalars": {k: v.clone() if isinstance(v, Tensor) else v for k, v in self.scalars.items()},
        }
        if self.generator is not None:
            state["generator"] = self.generator.get_state()
        return state

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        """Takes over ``state``; memories move to their parameter's device and dtype."""
        self.memory = {
            name: {
                params[int(i)]: value.to(
                    device=params[int(i)].device,
                    dtype=params[int(i)].dtype if value.is_floating_point() else value.dtype,
                )
                for i, value in table.items()
            }
            for name, table in state["memory"].items()
        }
        self.scalars = dict(state["scalars"])
        if self.generator is not None and "generator" in state:
            try:
                self.generator.set_state(state["generator"].cpu())
            except RuntimeError as error:
                raise InvalidInput(
                    f"the saved random state is of another kind of device than {self.generator.device} "
                    "(a CPU run can't be continued on a GPU, or the other way round, with the same draws)"
                ) from error
