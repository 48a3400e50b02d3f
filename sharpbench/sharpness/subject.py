"""The subject of measurement: which network, which of its parameters, and a loss that is a mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import InvalidInput, must_be, unknown_name


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside torch.compile and (Distributed)DataParallel, neither of which gives Hessians."""
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    return inner if isinstance(inner, nn.Module) else model


def select_parameters(model: nn.Module, params: str | Sequence[str]) -> list[nn.Parameter]:
    """The parameters that span the surface: "all", "trainable", or by name.

    Raises:
        InvalidInput: unknown names, none left, half precision, or not initialised.
    """
    named = dict(model.named_parameters())
    if params == "all":
        chosen = list(named.values())
    elif params == "trainable":
        chosen = [p for p in named.values() if p.requires_grad]
    elif isinstance(params, str):
        raise unknown_name("params", params, ["all", "trainable"])
    else:
        for name in params:
            if name not in named:
                raise unknown_name("parameter", name, named)
        chosen = [named[name] for name in params]
    if not chosen:
        raise InvalidInput("no parameters to measure; is the model empty, or every parameter frozen?")
    for name, p in named.items():
        if isinstance(p, nn.UninitializedParameter):
            raise InvalidInput(f"parameter {name!r} is not initialised; run one forward pass first")
        if p.is_inference():
            raise InvalidInput(
                f"parameter {name!r} was made under inference_mode; build the model outside it"
            )
        if any(p is c for c in chosen) and p.dtype not in (torch.float32, torch.float64):
            raise must_be("parameters", "float32 or float64", str(p.dtype), "convert with model.float()")
    return chosen


def refuse_sum(loss_fn: Callable[..., Any]) -> None:
    """Refuse a loss that says it is a sum: batches are weighted as means."""
    keywords = getattr(loss_fn, "keywords", {})
    if getattr(loss_fn, "reduction", keywords.get("reduction")) == "sum":
        raise must_be("loss_fn", "a mean over the batch", 'reduction="sum"', "batches are weighted by size")
