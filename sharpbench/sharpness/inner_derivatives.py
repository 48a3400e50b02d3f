"""Models that differentiate in forward: physics-informed losses, forces, inner optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import InvalidInput
from .differences import displaced
from .flat import flatten
from .isolation import isolated
from .memory import out_of_memory

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

    Raises:
        InvalidInput: model or loss fails on these data, or it takes derivatives without
            ``create_graph=True``, so that they count as constants and the gradient is not that of the loss.
    """
    batch = next(iter(surface.batches))
    with isolated(surface.model, surface.parameters, "own"):
        few, watch = batch.first(EXAMPLES), _Watch()
        try:
            expected = _loss(surface, few, watch)
        except Exception as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                return False
            few, watch = batch, _Watch()  # a model or loss that takes no fewer
            try:
                expected = _loss(surface, few, watch)
            except (InvalidInput, Warning, torch.OutOfMemoryError):
                raise
            except Exception as reason:
                said = str(reason).partition("\n")[0]
                raise InvalidInput(
                    f"model and loss can't be evaluated on {batch.count} of these examples "
                    f"({type(reason).__name__}: {said})"
                ) from reason
        if watch.constant and not _is_derivative(surface, few):
            raise InvalidInput(
                "forward or loss_fn calls torch.autograd.grad without create_graph=True, so that its result "
                "counts as a constant and the gradient is not that of the loss; pass create_graph=True"
            )
        return watch.derivatives or _differs_without_grad(surface, few, expected)


def _loss(surface: LossSurface, batch: Batch, watch: _Watch) -> float:
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


def _is_derivative(surface: LossSurface, few: Batch) -> bool:
    """Whether the loss changes as its gradient says, along the gradient mixed with a random direction."""
    gradient = flatten(surface.evaluate.gradient(few)).to(surface.dtype)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(surface.dimension, generator=generator).to(gradient)
    direction = gradient / gradient.norm().clamp_min(1e-30) + noise / noise.norm()
    typical = float(surface.point().norm()) / surface.dimension**0.5
    rounding = torch.finfo(surface.dtype).eps
    step = rounding ** (1 / 3) * (1 + typical) / float(direction.norm())
    losses = []
    with displaced(surface.parameters, surface.split) as move:
        for sign in (1, -1):
            move(sign * step * direction)
            losses.append(float(surface.evaluate.loss(few, double=True).detach()))
    slope = (losses[0] - losses[1]) / (2 * step)
    expected, size = float(gradient @ direction), float(gradient.norm())
    # The error of a central difference: truncation, as a share of the slope, and the losses' own rounding.
    allowed = rounding**0.4 * max(abs(slope), size) + 8 * rounding * abs(losses[0]) / step
    return bool(abs(slope - expected) <= allowed)


class _Watch(TorchFunctionMode):
    """Notes calls of ``torch.autograd.grad`` and ``backward``, however they were imported."""

    def __init__(self) -> None:
        super().__init__()
        self.derivatives = self.constant = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        options = kwargs or {}
        if func is torch.autograd.grad:
            self.derivatives = True
            self.constant |= not (options.get("create_graph") or (len(args) > 4 and args[4]))
        return func(*args, **options)
