"""A batch beside its parts: whether the weighted mean of their losses is its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidInput
from .batches import Batch
from .memory import out_of_memory

ADVICE = (
    "pass weight=, a function of (inputs, targets) that gives what the loss of a batch is divided by (the "
    "number of unpadded tokens, the sum of the targets' class weights), or keep the data in one batch, which "
    "is the only way where the loss compares examples with each other (contrastive) or the model mixes them"
)

Evaluated = tuple[float, Tensor]


@dataclass(frozen=True)
class Mismatch:
    """Why the losses of the parts of a batch do not give its own loss; as text, one line with the remedy."""

    reason: str
    is_sum: bool = False

    def __str__(self) -> str:
        if self.is_sum:
            return f'{self.reason}: the loss is a sum over examples; pass weight="sum"'
        return f"{self.reason}; {ADVICE}"


def uneven(count: int) -> list[int]:
    """Sizes of uneven parts, even and odd: 2, 3, 5, 8, … (each the sum of the two before) and the rest.

    Classes that alternate have the same shares in parts of equal or of even sizes.

    >>> uneven(17), uneven(5), uneven(4)
    ([2, 3, 5, 7], [2, 3], [1, 3])
    """
    if count < 5:
        return [1, count - 1]
    sizes: list[int] = []
    size, following = 2, 3
    while count - sum(sizes) > size + 1:
        sizes.append(size)
        size, following = following, size + following
    return [*sizes, count - sum(sizes)]


def compare(batch: Batch, evaluate: Callable[[int, int], Evaluated], tolerance: float) -> Mismatch | None:
    """The batch beside its uneven parts; ``evaluate(start, stop)`` gives loss and gradient of some examples.

    Raises:
        NoLoss: an evaluation fails.
    """

    def attempt(start: int, stop: int) -> Evaluated:
        try:
            return evaluate(start, stop)
        except (InvalidInput, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
            raise NoLoss(
                f"{stop - start} examples have no loss of their own ({type(error).__name__}: {said})"
            ) from error

    if batch.weight == 0:
        return None
    (loss, gradient), (again, _) = attempt(0, batch.count), attempt(0, batch.count)
    if not math.isfinite(loss) or abs(again - loss) > tolerance * abs(loss):
        return None  # nan or noise, which require_deterministic reports
    weighted, plain = _Sum(gradient), _Sum(gradient)
    weights, start = 0.0, 0
    for part in batch.cut(uneven(batch.count)):
        if part.weight > 0:
            value, slope = attempt(start, start + part.count)
            weighted.add(value, slope, part.weight)
            plain.add(value, slope, 1.0)
            weights += part.weight
        start += part.count
    if callable(batch.weigh) and abs(weights - batch.weight) > 1e-5 * batch.weight:
        return Mismatch(
            f"weight(inputs, targets) is {batch.weight:.6g} for {batch.count} examples, but adds up to "
            f"{weights:.6g} over their parts"
        )
    if batch.weigh == "sum":
        weights = 1.0
    if weighted.agrees(loss, gradient, weights, tolerance):
        return None
    is_sum = batch.weigh != "sum" and plain.agrees(loss, gradient, 1.0, tolerance)
    return Mismatch(
        f"the loss of {batch.count} examples is {loss:.8g}, but that of their parts is "
        f"{weighted.loss / weights:.8g}, and the gradients differ by "
        f"{weighted.gap(gradient, weights):.2g} of their norm",
        is_sum,
    )


class NoLoss(Exception):
    """Some examples alone have no loss."""


class _Sum:
    """A weighted sum of losses and gradients, and of their sizes."""

    def __init__(self, gradient: Tensor) -> None:
        self.loss = self.size = self.slope = 0.0
        self.gradient = torch.zeros_like(gradient)

    def add(self, loss: float, gradient: Tensor, weight: float) -> None:
        self.loss += weight * loss
        self.size += weight * abs(loss)
        self.gradient = self.gradient + weight * gradient
        self.slope += weight * float(gradient.norm())

    def agrees(self, loss: float, gradient: Tensor, total: float, tolerance: float) -> bool:
        """Whether sums over ``total`` are this loss and gradient, up to rounding of their terms."""
        gap = float((self.gradient / total - gradient).norm())
        return abs(self.loss / total - loss) <= tolerance * max(self.size / total, abs(loss)) and (
            gap <= tolerance * max(self.slope / total, float(gradient.norm()))
        )

    def gap(self, gradient: Tensor, total: float) -> float:
        """How far the gradients are apart, in units of the larger one."""
        mean = self.gradient / total
        return float((mean - gradient).norm()) / max(float(mean.norm()), float(gradient.norm()), 1e-300)
