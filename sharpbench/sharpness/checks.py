"""Checks made once: one loss, a second derivative that is one, cheaper layers that change nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InvalidInput
from .batches import Batch
from .differences import central_difference
from .fast_matmul import at_any_size
from .flat import flatten
from .graphs import NoSecondDerivative, product
from .isolation import isolated
from .layers import LayerForm, possible_forms
from .memory import out_of_memory, within_memory
from .notices import SlowerFormulation
from .structures import tensors
from .subject import warn_once
from .verification import second_derivative_is_right

if TYPE_CHECKING:
    from .surface import LossSurface

# Non-associative sums differ in the last bits (GPU atomics); dropout and shuffling by far more.
RELATIVE_TOLERANCE = 1e-3
# What a layer does to its second derivative does not depend on how many examples pass through it.
EXAMPLES = 32
# Two steps of the central difference must agree this well before it may stand in for the products.
DIFFERENCE_TOLERANCE = 0.05


def require_deterministic(surface: LossSurface) -> bool:
    """Walk the data twice: the same batches, losses and gradient, all finite.

    A kept graph would freeze a dropout mask, and a shuffled loader would change the surface between
    products: both give confident nonsense, so both are refused.

    Raises:
        InvalidInput: with the likely cause (shuffling, dropout left on, a loss that is not finite).
    """
    with surface.session():
        first, second = within_memory(surface, lambda: (_walk(surface), _walk(surface)))
    if first.prints != second.prints:
        raise InvalidInput(
            "the data give different batches on a second pass, so there is no one loss surface; "
            "is the loader shuffling or augmenting at random? (use shuffle=False, or a list of batches)"
        )
    scale = max(abs(first.loss), 1e-12)
    gap = abs(first.loss - second.loss)
    drift = float((first.gradient - second.gradient).norm())
    norm = float(first.gradient.norm())
    # Near a minimum the gradient is all cancellation, so its drift is also allowed in units of its terms.
    if gap > RELATIVE_TOLERANCE * scale or drift > RELATIVE_TOLERANCE * max(norm, first.size):
        raise InvalidInput(
            f"loss and gradient differ on a second evaluation (loss {first.loss:.6g}, then "
            f"{second.loss:.6g}); is dropout on in eval mode, or noise drawn in forward or loss_fn?"
        )
    return True


def adopt_formulation(surface: LossSurface) -> str:
    """``"double_backward"`` if it exists and is right, else central differences with one warning.

    Right: equal to a central difference in double precision on a few examples, where that can be had; and
    symmetric, ``v^T H (H v) = |H v|^2``.

    Raises:
        InvalidInput: no second derivative, and a loss too rough for central differences.
    """
    batch = next(iter(surface.batches))
    few = _few(surface, batch)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(surface.dimension, generator=generator).to(surface.device, surface.dtype)
    try:
        symmetric = _symmetric(surface, few, probe)
        verdict = second_derivative_is_right(surface)
        if symmetric and verdict is not False:
            return "double_backward"
        reason = (
            "the second derivative of an operator is wrong; a custom backward pass may detach, and torch's "
        )
        reason += "fused weight_norm does"
    except NoSecondDerivative as error:
        reason = str(error)
    part = surface.restricted([batch])  # of this rank alone: no rank waits for another
    with part.session():
        wide, narrow = central_difference(part, probe, 2.0), central_difference(part, probe)
    if float((wide - narrow).norm()) > DIFFERENCE_TOLERANCE * float(narrow.norm()):
        raise InvalidInput(
            f"an operator of this model has no usable second derivative ({reason}), and central differences "
            "of the gradient disagree with each other; measure in float64 or replace the operator"
        )
    warn_once(
        surface,
        SlowerFormulation,
        f"double backward failed ({reason}); products come from central differences of the gradient",
    )
    return "central_difference"


def _symmetric(surface: LossSurface, batch: Batch, probe: Tensor) -> bool:
    with isolated(surface.model, surface.parameters, "own"):
        gradient = surface.evaluate.gradient_graph(batch)
        once = flatten(product(gradient, surface.parameters, surface.split(probe), True))
        size = float(once.norm())
        if size == 0.0:
            return True
        twice = flatten(product(gradient, surface.parameters, surface.split(once / size), False))
    forth, back = size, float((probe * twice).sum())
    scale = size + float(probe.norm() * twice.norm())
    return abs(forth - back) <= 30 * math.sqrt(torch.finfo(surface.dtype).eps) * scale


def adopt_form(surface: LossSurface) -> LayerForm:
    """The cheapest form of the layers in which one random product is what it was."""
    if surface.formulation == "central_difference":
        return "own"
    forms = possible_forms(surface.model)
    if forms == ["own"]:  # none of its layers has another form; the functions that it calls may have
        forms = ["cheap", "own"]
    if surface.device.type != "cpu":  # another memory layout was measured to pay on CPU only
        forms = [form for form in forms if form != "channels_last"]
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(surface.dimension, generator=generator).to(surface.device, surface.dtype)
    batch = _few(surface, next(iter(surface.batches)))
    plain = _product_as(surface, batch, probe, "own")
    limit = 3 * math.sqrt(torch.finfo(surface.dtype).eps)
    for form in forms[:-1]:
        try:
            same = (_product_as(surface, batch, probe, form) - plain).norm() <= limit * plain.norm()
        except Exception as error:  # e.g. a view of activations that wants them in NCHW order
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            continue  # a form that fails in any way is not used; the layers' own was fine just now
        if bool(same):
            return form
    return "own"


def _few(surface: LossSurface, batch: Batch) -> Batch:
    """The first examples of a batch; the whole of it where the model does not take fewer."""
    few = batch.first(EXAMPLES)
    try:
        with isolated(surface.model, surface.parameters, "own"), surface.evaluate.values_only():
            loss = float(surface.evaluate.loss(few).detach())
    except Exception:
        return batch
    return few if math.isfinite(loss) else batch  # not finite: these few are all padding


def _product_as(surface: LossSurface, batch: Batch, probe: Tensor, form: LayerForm) -> Tensor:
    with isolated(surface.model, surface.parameters, form), at_any_size():
        gradient = surface.evaluate.gradient_graph(batch)
        return flatten(product(gradient, surface.parameters, surface.split(probe), False)).double()


class _Walk:
    """Fingerprints of the batches, the mean loss, the gradient and the size of its terms."""

    def __init__(self) -> None:
        self.prints: list[tuple[float, ...]] = []
        self.loss = 0.0
        self.gradient = torch.zeros(0)
        self.size = 0.0


def _walk(surface: LossSurface) -> _Walk:
    walk = _Walk()
    for batch in surface.batches:
        share = surface.share(batch)
        loss, pieces = surface.evaluate.loss_and_gradient(batch)
        value = float(loss)
        if not math.isfinite(value):
            raise InvalidInput(
                f"the loss is {value} on this data; has training diverged, or do inputs hold nan or inf?"
            )
        flat = torch.cat([piece.detach().reshape(-1) for piece in pieces]).double() * share
        walk.gradient = walk.gradient.to(flat) + flat if walk.prints else flat
        walk.loss += value * share
        walk.size += 1e-3 * float(flat.norm())
        prints = [*_prints(batch.inputs), *_prints(batch.targets)]
        walk.prints.append((float(batch.count), batch.weight, *prints))
    if not walk.prints:
        raise InvalidInput("data hold no examples on a second pass; pass a re-iterable such as a list")
    if not bool(torch.isfinite(walk.gradient).all()):
        raise InvalidInput("the gradient is not finite on this data; does the loss take log or sqrt of 0?")
    return walk


def _prints(value: Any) -> list[float]:
    """Numbers that tell one batch from another; missing values (nan) are counted, since nan != nan."""
    found = []
    for tensor in tensors(value):
        dense = tensor.detach()
        if dense.layout != torch.strided:
            dense = dense.to_dense()
        flat = (torch.view_as_real(dense) if dense.is_complex() else dense).double()
        missing = flat.isnan()
        flat = flat.nan_to_num(nan=0.0)
        found += [float(flat.sum()), float(flat.square().sum()), float(missing.sum())]
    return found
