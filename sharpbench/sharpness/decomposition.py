"""Decomposition: whether the loss of a batch is the weighted mean of the losses of its parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from .batches import Batch, Batches
from .flat import flatten
from .isolation import isolated
from .memory import out_of_memory
from .structures import joined, map_tensors, tensors

if TYPE_CHECKING:
    from .surface import LossSurface

EXAMPLES, DRAWS, GIVEN_BATCHES = 64, 3, 4
# Outputs of the whole data are compared up to this size; beyond it more draws of a few examples.
LARGEST_OUTPUTS = 2**27
# A loss reduced from outputs rounds in the last bits; kernels (TF32, other blockings) by more.
OUTPUT_TOLERANCE, KERNEL_TOLERANCE = 2e-5, 5e-3

ADVICE = (
    "pass weight=, a function of (inputs, targets) that gives what the loss of a batch is divided by (the number "
    "of unpadded tokens, the sum of the targets' class weights), or keep the data in one batch, which is the only "
    "way where the loss compares examples with each other (contrastive) or the model mixes them"
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


def find_mismatch(surface: LossSurface, batches: Batches, size: int) -> Mismatch | None:
    """Why losses of parts do not add up to the loss of the whole; ``None`` if they do.

    With ``s_b`` the share of a part by the surface's ``weight``, ``l = sum_b s_b l_b`` and its gradient are
    compared in two ways, on uneven parts (two halves may agree by chance):

    1. loss and parameters' gradient of a few examples drawn at random, which shows a model that mixes them;
    2. loss and gradient in the *outputs* for all the data, the outputs computed ``size`` examples at a time:
       one forward pass, which shows a rare class or a rare padding that the few examples do not hold.

    Args:
        surface: the surface, outside a session.
        batches: its data; of a list of batches the first ones are looked at.
        size: how many examples are known to fit in memory.
    """
    generator = torch.Generator().manual_seed(0)
    with isolated(surface.model, surface.parameters, "own"):
        for whole in islice((b for b in batches.wholes() if b.divisible), GIVEN_BATCHES):
            outputs = _outputs(surface, whole, size)
            found = None if outputs is None else _by_outputs(surface, whole, outputs, generator)
            for _ in range(DRAWS if outputs is None else 1):
                found = found or _by_parameters(surface, whole, size, generator)
            if found:
                return found
    return None


def uneven(count: int) -> list[int]:
    """Sizes of uneven parts: 2, 4, 8, … and the rest.

    >>> uneven(17), uneven(5), uneven(4)
    ([2, 4, 8, 3], [2, 3], [1, 3])
    """
    if count < 5:
        return [1, count - 1]
    sizes, size = [], 2
    while count - sum(sizes) > size + 1:
        sizes.append(size)
        size *= 2
    return [*sizes, count - sum(sizes)]


def _by_parameters(
    surface: LossSurface, whole: Batch, size: int, generator: torch.Generator
) -> Mismatch | None:
    """Compare loss and parameters' gradient of a few examples with those of their parts."""
    tolerance = KERNEL_TOLERANCE if surface.dtype == torch.float32 else 1e-7
    count = min(EXAMPLES, max(2, 2 * size), whole.count)
    while count >= 2:
        few = whole.take(torch.randperm(whole.count, generator=generator)[:count].sort().values)

        def evaluate(start: int, stop: int, few: Batch = few) -> Evaluated:
            loss, pieces = surface.evaluate.loss_and_gradient(few.take(torch.arange(start, stop)))
            return float(loss), flatten(pieces).double()

        try:
            return _compare(few, evaluate, tolerance)
        except _NoLoss as error:
            # A model or a loss that fails on any examples has a fault of its own, which comes out here.
            surface.evaluate.loss(whole.first(size))
            return Mismatch(str(error))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        count //= 2
    return None


def _outputs(surface: LossSurface, whole: Batch, size: int) -> Any:
    """The outputs of the whole batch, a part at a time; None where they can't be had or are too large."""
    parts, counts, total = [], [], 0
    step = min(size, whole.count)
    sizes = [min(step, whole.count - start) for start in range(0, whole.count, step)]
    try:
        with surface.evaluate.values_only():
            for part in whole.cut(sizes):
                outputs = map_tensors(surface.model(part.inputs), torch.Tensor.detach)
                total += sum(t.nbytes for t in tensors(outputs))
                if total > LARGEST_OUTPUTS:
                    return None
                parts.append(outputs)
                counts.append(part.count)
        return joined(parts, counts)
    except Exception:  # outputs of another form, or a model that takes no parts: the parameters tell
        return None


def _by_outputs(
    surface: LossSurface, whole: Batch, outputs: Any, generator: torch.Generator
) -> Mismatch | None:
    """Compare the loss of the whole batch and its gradient in the outputs with those of the parts."""
    candidates = [outputs]
    if isinstance(outputs, Tensor) and outputs.is_floating_point():
        # At a perfect fit every gradient is zero; mixtures of two examples' outputs are no perfect fit, and
        # stay within the domain of the loss (probabilities remain probabilities).
        other = torch.randperm(whole.count, generator=generator).to(outputs.device)
        candidates.append(0.7 * outputs + 0.3 * outputs[other])
    for values in candidates:
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            if tensor.is_floating_point():
                tensor = tensor.detach().clone().requires_grad_(True)
                leaves.append(tensor)
            return tensor

        batch = Batch(map_tensors(values, leaf), whole.targets, whole.count)

        def evaluate(start: int, stop: int, batch: Batch = batch, leaves: list[Tensor] = leaves) -> Evaluated:
            part = batch.take(torch.arange(start, stop))
            loss = surface.evaluate.loss_of(part.inputs, part.targets, double=True)
            if not loss.requires_grad:
                return float(loss), torch.zeros(0, dtype=torch.float64)
            pieces = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            return float(loss.detach()), flatten(pieces).double()

        try:
            loss, gradient = evaluate(0, whole.count)
        except InvalidInput:
            raise
        except Exception:  # this loss does not take mixtures of outputs
            continue
        if math.isfinite(loss) and bool(torch.isfinite(gradient).all()):
            try:
                found = _compare(whole, evaluate, OUTPUT_TOLERANCE)
            except _NoLoss as error:
                return Mismatch(str(error))
            if found:
                return found
    return None


def _compare(batch: Batch, evaluate: Callable[[int, int], Evaluated], tolerance: float) -> Mismatch | None:
    """The batch beside its uneven parts; ``evaluate(start, stop)`` gives loss and gradient of some examples.

    Raises:
        _NoLoss: an evaluation fails.
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
            raise _NoLoss(f"{stop - start} examples have no loss of their own ({type(error).__name__}: {said})") from error

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
        f"{weighted.loss / weights:.8g}, and the gradients differ by {weighted.gap(gradient, weights):.2g} of their norm",
        is_sum,
    )


class _NoLoss(Exception):
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
