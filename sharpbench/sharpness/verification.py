"""One product against a central difference, in double precision, on a few examples."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .batches import Batch
from .differences import central_difference
from .evaluation import Evaluator
from .graphs import GradientGraphs, NoSecondDerivative

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
    twin = _double(surface)
    if twin is None:
        return None
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(twin.dimension, generator=generator).to(twin.device, twin.dtype)
    try:
        with twin.session():
            wide, narrow = central_difference(twin, probe, 2.0), central_difference(twin, probe)
            size = float(narrow.norm())
            if float((wide - narrow).norm()) > WITNESS * size:
                return None
            return float((twin.hvp(probe) - narrow).norm()) <= WRONG * size + 1e-8 * float(probe.norm())
    except NoSecondDerivative:
        raise
    except Exception:  # the copy can't be run in double precision: constants or buffers of another type
        return None


def _double(surface: LossSurface) -> LossSurface | None:
    """The same surface in float64 on the first few examples, of a copy of the model."""
    positions = {id(p): i for i, p in enumerate(surface.model.parameters())}
    batch = next(iter(surface.batches))
    try:
        model = copy.deepcopy(surface.model).double()
        parameters = list(model.parameters())
        few = Batch(
            _few(batch.inputs, batch.count), _few(batch.targets, batch.count), min(batch.count, EXAMPLES)
        )
        twin = surface.restricted([few])
        twin.model = model
        twin.parameters = [parameters[positions[id(p)]] for p in surface.parameters]
        twin.dtype = torch.float64
        twin.formulation = "double_backward"
        twin.evaluate = Evaluator(model, surface.evaluate.loss_fn, twin.parameters)
        twin.graphs = GradientGraphs(twin.parameters, 0)
    except Exception:  # models that can't be copied go without this check
        return None
    return twin


def _few(value: Any, count: int) -> Any:
    if isinstance(value, Tensor):
        few = value[:EXAMPLES] if value.ndim and len(value) == count else value
        return few.double() if few.is_floating_point() else few
    if isinstance(value, dict):
        return {key: _few(item, count) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_few(item, count) for item in value)
    return value
