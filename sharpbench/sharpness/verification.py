"""One product against a central difference, in double precision, on a few examples, tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .differences import central_difference
from .double_precision import all_double, double_twin
from .graphs import NoSecondDerivative

if TYPE_CHECKING:
    from .surface import LossSurface

EXAMPLES = 16
# Two steps that agree this well make the difference a witness; a product further off than that is wrong.
WITNESS, WRONG = 1e-3, 1e-2
# Blocks below this share of the whole product are rounding and truncation of the difference, as is what is
# below this share of probe and gradient.
NEGLIGIBLE, DIFFERENCE_NOISE = 1e-9, 1e-11
# Weights are moved by this share of their size first: off the points where examples of zeros put kinks.
GENERIC = 1e-2


def second_derivative_is_right(surface: LossSurface) -> bool | None:
    """Whether double backward gives the derivative of the gradient; ``None`` when that can't be told.

    Double precision and a step of about 1e-5 leave few ReLU kinks between the points, so that the
    difference is a witness where single precision is none. Some operators have a second derivative that is
    quietly incomplete: custom functions that detach what they saved, and (in torch 2.13) the fused weight
    norm. What such an operator leaves out may be a small share of the product, so each parameter tensor's
    block of it is compared by itself, relative to its own size. A block in which two steps of the
    difference disagree (a kink) says nothing; blocks smaller than 1e-9 of the whole are left out.

    Where the model can't be run in double precision, a network with fused weight norms is judged by whether
    torch's is right.

    Raises:
        NoSecondDerivative: an operator can't be differentiated twice.
    """
    batch = next(iter(surface.batches)).first(EXAMPLES)
    with all_double():
        twin = double_twin(surface, [batch])
        try:
            verdict = None if twin is None else _blocks_agree(twin)
        except NoSecondDerivative:
            raise
        except Exception:  # the copy can't be run in double precision: constants or buffers of another type
            verdict = None
    if verdict is None and _has_fused_weight_norm(surface.model) and not _fused_weight_norm_is_right():
        return False
    return verdict


def _blocks_agree(twin: LossSurface) -> bool | None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in twin.parameters:
            typical = float(p.square().mean().sqrt()) if p.numel() else 0.0
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.device)
            p.add_((GENERIC * (typical or 1e-3)) * noise)
    probe = torch.randn(twin.dimension, generator=generator, dtype=torch.float64).to(twin.device)
    with twin.session():
        wide, narrow = central_difference(twin, probe, 2.0), central_difference(twin, probe)
        product, slope = twin.hvp(probe), twin.gradient()
    size = float(narrow.norm())
    floor = NEGLIGIBLE * size + DIFFERENCE_NOISE * float(probe.norm()) * float(slope.norm())
    judged, right = False, True
    pieces = zip(*(twin.split(vector) for vector in (wide, narrow, product)), strict=True)
    for wide_block, block, product_block in pieces:
        own = float(block.norm())
        disagreement = float((wide_block - block).norm())
        if not disagreement <= WITNESS * own + floor:
            continue
        judged = judged or own > floor
        gap = float((product_block - block).norm())
        right = right and gap <= WRONG * own + 10 * (disagreement + floor)
    if not right:
        return False
    whole = float((wide - narrow).norm()) <= WITNESS * size
    return True if whole or judged else None


def _has_fused_weight_norm(model: nn.Module) -> bool:
    for module in model.modules():
        hooks = [*module._forward_pre_hooks.values()]
        names = [type(hook).__name__ for hook in hooks] + [type(module).__name__]
        if "WeightNorm" in names or "_WeightNorm" in names:
            return True
    return False


def _fused_weight_norm_is_right() -> bool:
    """Whether this torch's own weight norm has the right second derivative."""
    generator = torch.Generator().manual_seed(0)
    v, g, w = (torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    g = g.norm(dim=1, keepdim=True)

    def slope(v: Tensor) -> Tensor:
        v = v.detach().requires_grad_(True)
        value = (torch._weight_norm(v, g, 0) * w).sum().square()
        (found,) = torch.autograd.grad(value, v, create_graph=True)
        return found

    v.requires_grad_(True)
    value = (torch._weight_norm(v, g, 0) * w).sum().square()
    (first,) = torch.autograd.grad(value, v, create_graph=True)
    (product,) = torch.autograd.grad((first * w).sum(), v)
    step = 1e-5
    with torch.enable_grad():
        difference = (slope(v + step * w) - slope(v - step * w)).detach() / (2 * step)
    return float((product - difference).norm()) <= WRONG * float(difference.norm())
