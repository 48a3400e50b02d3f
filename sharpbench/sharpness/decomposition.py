"""Decomposition: whether the loss of a batch is the weighted mean of the losses of its parts."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from .batches import Batch, Batches
from .flat import flatten
from .isolation import isolated
from .memory import out_of_memory
from .parts import Evaluated, Mismatch, NoLoss, compare
from .structures import joined, map_tensors, tensors

if TYPE_CHECKING:
    from .surface import LossSurface

EXAMPLES, DRAWS, GIVEN_BATCHES = 64, 12, 4
# Outputs of the whole data are compared up to this size; beyond it more draws of a few examples.
LARGEST_OUTPUTS = 2**27
# A loss reduced from outputs rounds in the last bits; kernels (TF32, other blockings) by more.
OUTPUT_TOLERANCE, KERNEL_TOLERANCE = 2e-5, 5e-3


def halve(surface: LossSurface, batches: Batches) -> bool:
    """Halve the batches of a surface if that does not change its loss; whether that was done.

    The first time, losses of parts are compared with that of a whole; ``surface.indivisible`` keeps the
    verdict.
    """
    before = batches.batch_size
    if not batches.halve():
        return False
    if surface.indivisible is None:
        surface.indivisible = str(find_mismatch(surface, batches, batches.batch_size or 1) or "")
    if surface.indivisible:
        batches.batch_size = before
        return False
    return True


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
        divisible = (batch for batch in batches.wholes() if batch.divisible)
        for index, whole in enumerate(islice(divisible, GIVEN_BATCHES)):
            outputs = _outputs(surface, whole, size)
            found = None if outputs is None else _by_outputs(surface, whole, outputs, generator)
            # What a model does with a batch is seen on one; the losses, which are cheap, on several.
            draws = 0 if index else 1
            for _ in range(DRAWS if outputs is None else draws):
                found = found or _by_parameters(surface, whole, size, generator)
            if found:
                return found
    return None


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
            return compare(few, evaluate, tolerance)
        except NoLoss as error:
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

        precision = surface.evaluate.double_outputs
        try:
            loss, gradient = evaluate(0, whole.count)
        except InvalidInput:
            raise
        except Exception:  # this loss does not take mixtures of outputs, which says nothing of its precision
            surface.evaluate.double_outputs = precision
            continue
        if math.isfinite(loss) and bool(torch.isfinite(gradient).all()):
            try:
                found = compare(whole, evaluate, OUTPUT_TOLERANCE)
            except NoLoss as error:
                return Mismatch(str(error))
            if found:
                return found
    return None
