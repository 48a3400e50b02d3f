"""Models that differentiate in forward: physics-informed losses, forces, inner optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from .isolation import isolated
from .memory import out_of_memory
from .notices import ConstantDerivative
from .subject import warn_once

if TYPE_CHECKING:
    from .batches import Batch
    from .surface import LossSurface

# What a model computes does not depend on how many examples pass through it.
EXAMPLES = 32
TOLERANCE = 1e-4


def differentiates_in_forward(surface: LossSurface) -> bool:
    """Whether the loss needs gradients enabled while it is computed, because it is made of derivatives.

    Found by computing it on a few examples with and without: under ``no_grad`` such a model fails or gives
    something else.

    Warns:
        ConstantDerivative: forward takes derivatives without ``create_graph=True``.
    """
    batch = next(iter(surface.batches))
    with isolated(surface.model, surface.parameters, "own"):
        few, watch = batch.first(EXAMPLES), _Watch()
        try:
            with watch:
                expected = float(surface.evaluate.loss(few).detach())
        except Exception as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                return False
            few, watch = batch, _Watch()  # a model or loss that takes no fewer
            expected = _whole_loss(surface, few, watch)
        if watch.constant:
            warn_once(
                surface,
                ConstantDerivative,
                "forward or loss_fn calls torch.autograd.grad without create_graph=True: what it returns counts "
                "as a constant in gradient and Hessian; pass create_graph=True unless this is meant",
            )
        if not watch.derivatives:
            return _differs_without_grad(surface, few, expected)
        return True


def _whole_loss(surface: LossSurface, batch: Batch, watch: _Watch) -> float:
    with watch:
        return float(surface.evaluate.loss(batch).detach())


def _differs_without_grad(surface: LossSurface, few: Batch, expected: float) -> bool:
    try:
        with torch.no_grad():
            found = float(surface.evaluate.loss(few))
    except RuntimeError as error:
        return not out_of_memory(error)
    # Not a number on both sides is no difference; noise is for another check to refuse.
    return abs(found - expected) > TOLERANCE * abs(expected)


class _Watch(TorchFunctionMode):
    """Notes calls of ``torch.autograd.grad`` and ``backward``, however they were imported."""

    def __init__(self) -> None:
        super().__init__()
        self.derivatives = self.constant = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func is torch.autograd.grad:
            self.derivatives = True
            self.constant |= not (options.get("create_graph") or (len(args) > 4 and args[4]))
        return func(*args, **options)
