"""One product against a central difference, in double precision, on a few examples."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .differences import central_difference
from .evaluation import Evaluator
from .graphs import GradientGraphs, NoSecondDerivative
from .structures import map_tensors

if TYPE_CHECKING:
    from .surface import LossSurface

EXAMPLES = 16
# Two steps that agree this well make the difference a witness; a product further off than that is wrong.
WITNESS, WRONG = 1e-3, 1e-2


def second_derivative_is_right(surface: LossSurface) -> bool | None:
    """Whether double backward gives the derivative of the gradient; ``None`` when that can't be told.

    Double precision and a step of about 1e-5 leave few ReLU kinks between the points, so that the difference
    is a witness where single precision is none. Some operators have a second derivative that is quietly
    incomplete: custom functions that detach what they saved, and (in torch 2.13) the fused weight norm.

    Raises:
        NoSecondDerivative: an operator can't be differentiated twice.
    """
    twin = _twin(surface)
    if twin is None:
        return None
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(twin.dimension, generator=generator).to(twin.device, twin.dtype)
    try:
        with twin.session():
            wide, narrow = central_difference(twin, probe, 2.0), central_difference(twin, probe)
            size = float(narrow.norm())
            if not float((wide - narrow).norm()) <= WITNESS * size:  # also where these examples give nan
                return None
            return float((twin.hvp(probe) - narrow).norm()) <= WRONG * size + 1e-8 * float(probe.norm())
    except NoSecondDerivative:
        raise
    except Exception:  # the copy can't be run in double precision: constants or buffers of another type
        return None


def _twin(surface: LossSurface) -> LossSurface | None:
    """The same surface in float64 on the first few examples, of a copy of the model."""
    positions = {id(p): i for i, p in enumerate(surface.model.parameters())}
    batch = next(iter(surface.batches))
    try:
        model = copy.deepcopy(surface.model).double()
        parameters = list(model.parameters())
        first = batch.first(EXAMPLES)
        few = replace(
            first, inputs=map_tensors(first.inputs, _double), targets=map_tensors(first.targets, _double)
        )
        twin = surface.restricted([few])
        twin.model = model
        twin.parameters = [parameters[positions[id(p)]] for p in surface.parameters]
        twin.dtype = torch.float64
        twin.formulation = "double_backward"
        twin.evaluate = Evaluator(model, surface.evaluate.loss_fn, twin.parameters)
        twin.evaluate.needs_grad = surface.evaluate.needs_grad
        twin.graphs = GradientGraphs(twin.parameters, 0)
    except Exception:  # models that can't be copied go without this check
        return None
    return twin


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
