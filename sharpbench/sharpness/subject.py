"""The subject of measurement: which network, which of its parameters, and a loss that is a mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ..errors import InvalidInput, must_be, unknown_name
from .notices import MeasuredInEvalMode


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside torch.compile and (Distributed)DataParallel, neither of which gives Hessians."""
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    return inner if isinstance(inner, nn.Module) else model


def select_parameters(model: nn.Module, params: str | Sequence[str]) -> list[nn.Parameter]:
    """The parameters that span the surface: "all", "trainable", or by names and patterns.

    Each once, in the model's order; a tied weight answers to any of its names.

    Raises:
        InvalidInput: names that match nothing, none left, half precision, or not initialised.
    """
    named = dict(model.named_parameters())
    if params == "all":
        chosen = list(named.values())
    elif params == "trainable":
        chosen = [p for p in named.values() if p.requires_grad]
    else:
        wanted: set[int] = set()
        aliases = list(model.named_parameters(remove_duplicate=False))
        for pattern in [params] if isinstance(params, str) else params:
            found = {id(p) for name, p in aliases if fnmatchcase(name, pattern)}
            if not found:
                raise unknown_name("parameter", pattern, ["all", "trainable", *named])
            wanted |= found
        chosen = [p for p in named.values() if id(p) in wanted]
    if not chosen:
        raise InvalidInput("no parameters to measure; is the model empty, or every parameter frozen?")
    for name, p in named.items():
        if isinstance(p, nn.UninitializedParameter):
            raise InvalidInput(f"parameter {name!r} is not initialised; run one forward pass first")
        if p.is_inference():
            raise InvalidInput(
                f"parameter {name!r} was made under inference_mode; build the model outside it"
            )
        if not any(p is c for c in chosen):
            continue
        if p.is_meta:
            raise InvalidInput(
                f"parameter {name!r} is on the meta device and has no values; load weights first"
            )
        if p.dtype not in (torch.float32, torch.float64):
            raise InvalidInput(
                f"parameters must be float32 or float64, but {name!r} is {p.dtype}; {_remedy(p)}"
            )
        if p.device != chosen[0].device:
            raise must_be("parameters", "on one device", f"{chosen[0].device} and {p.device}")
    return chosen


def _remedy(parameter: torch.Tensor) -> str:
    if parameter.is_complex():
        return "hold its real and imaginary parts in a real parameter, with torch.view_as_complex in forward"
    if parameter.is_floating_point():
        return "convert with model.float()"
    return 'whole numbers have no derivatives, so leave it out: params="trainable"'


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Layer name to the full names of the parameters that module holds itself, each parameter once.

    >>> parameter_groups(nn.Sequential(nn.Linear(1, 1), nn.ReLU()))
    {'0': ['0.weight', '0.bias']}
    """
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def warn_of_train_mode(model: nn.Module) -> None:
    """Warn where the model acts otherwise in eval mode, in which everything is measured."""
    found = {type(module).__name__ for module in model.modules() if module.training and _minds(module)}
    if found:
        warnings.warn(
            f"the model is in train mode ({', '.join(sorted(found))}) and is measured in eval mode; call "
            "model.eval() first to say that this is meant",
            MeasuredInEvalMode,
            stacklevel=3,
        )


def _minds(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.running_mean is not None
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout > 0)
    return isinstance(module, nn.modules.dropout._DropoutNd) and bool(module.p > 0)


def refuse_renormalising(model: nn.Module) -> None:
    """Refuse embeddings with ``max_norm``, which change their weights in forward."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise InvalidInput(
                f"embedding {name!r} has max_norm={module.max_norm} and changes its weights in forward; "
                "shorten them once and set max_norm=None"
            )


def refuse_sum(loss_fn: Callable[..., Any], weight: object = None) -> None:
    """Refuse a loss that says it is a sum where it is weighted as a mean, and the other way round."""
    keywords = getattr(loss_fn, "keywords", {})
    reduction = getattr(loss_fn, "reduction", keywords.get("reduction"))
    if reduction == "sum" and weight != "sum":
        raise must_be("loss_fn", "a mean over the batch", 'reduction="sum"', 'or pass weight="sum"')
    if reduction == "mean" and weight == "sum":
        raise must_be("loss_fn", 'a sum over the batch with weight="sum"', 'reduction="mean"')


def warn_once(owner: object, category: type[Warning], message: str) -> None:
    """Warn the first time ``owner`` has this to say."""
    said: set[type[Warning]] = vars(owner).setdefault("_said", set())
    if category not in said:
        said.add(category)
        warnings.warn(message, category, stacklevel=3)
