"""Layers and functions in a form that is cheap to differentiate twice, while measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Literal

from torch import Tensor, nn

from .convolution import convolve, is_plain_convolution
from .functions import functions_replaced
from .normalization import is_foldable, normalize

# How the layers are evaluated; each form gives the same function, the last at the least cost.
LayerForm = Literal["own", "cheap", "channels_last"]


@contextmanager
def layers_as(model: nn.Module, form: LayerForm) -> Iterator[None]:
    """Evaluate the model's layers, and the functions it calls, in this form; ``"own"`` changes nothing."""
    patched = []
    try:
        for module in model.modules() if form != "own" else ():
            forward = _forward(module, form == "channels_last")
            if forward is not None:
                vars(module)["forward"] = forward
                patched.append(module)
        with nullcontext() if form == "own" else functions_replaced():
            yield
    finally:
        for module in patched:
            vars(module).pop("forward", None)


def possible_forms(model: nn.Module) -> list[LayerForm]:
    """The forms in which convolutions and BatchNorm of this model differ, cheapest first.

    What functions the model calls is seen only when it is evaluated.

    >>> possible_forms(nn.Linear(1, 1)), possible_forms(nn.Conv2d(1, 1, 1))
    (['own'], ['channels_last', 'cheap', 'own'])
    """
    forms: list[LayerForm] = ["own"]
    if any(_forward(module, False) is not None for module in model.modules()):
        forms.insert(0, "cheap")
    if any(isinstance(module, nn.Conv2d) and _forward(module, True) for module in model.modules()):
        forms.insert(0, "channels_last")
    return forms


def _forward(module: nn.Module, channels_last: bool) -> Callable[[Tensor], Tensor] | None:
    if "forward" in vars(module):  # an instance whose forward is patched does something of its own
        return None
    if is_plain_convolution(module):
        return partial(convolve, module, channels_last=channels_last)
    return partial(normalize, module) if is_foldable(module) else None
