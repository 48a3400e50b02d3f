"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from ..errors import InvalidInput, SharpbenchError, unknown_name
from ..source import load_module
from .base import SharpnessAware
from .presam import PreSAM
from .universal import UniversalSAM
from .variants import descent_rules, momentum, policies, sampled, selective, sparse, two_pass


@dataclass(frozen=True)
class Entry:
    """A registered optimizer.

    Attributes:
        name: as in ``build(name, ...)`` and in suites.
        factory: the class.
        evaluations: gradient evaluations a step, for people.
        base: the base optimizer it stands for, or "" when it wraps the task's own.
        needs_object: True when a parameter can't be written in a suite file.
        needs_examples: True when the closure must be a ``BatchLoss``.
    """

    name: str
    factory: type[SharpnessAware]
    evaluations: str = "2"
    base: str = ""
    needs_object: bool = False
    needs_examples: bool = False

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.factory) or "").split("\n")[0]

    @property
    def parameters(self) -> dict[str, Any]:
        """Hyper-parameters and their defaults."""
        return hyper_parameters(self.factory)


COMMON = {"same_rng": True, "m_sharpness": False, "diagnostics": False}

_ENTRIES = (
    Entry("sgd", two_pass.PassThrough, "1", base="sgd"),
    Entry("adamw", two_pass.PassThrough, "1", base="adamw"),
    Entry("sam", two_pass.SAM),
    Entry("asam", two_pass.ASAM),
    Entry("fishersam", two_pass.FisherSAM),
    Entry("linf", two_pass.LInfSAM),
    Entry("l1", two_pass.L1SAM),
    Entry("nsupport", two_pass.NSupportSAM),
    Entry("vasso", two_pass.VaSSO),
    Entry("infosam", two_pass.InfoSAM),
    Entry("friendly", two_pass.FriendlySAM),
    Entry("modified_ssam", sparse.ModifiedSSAM),
    Entry("ssam_f", sparse.SSAMF, "2 (+ fisher_samples a refresh)", needs_examples=True),
    Entry("ssam_d", sparse.SSAMD),
    Entry("esam", selective.ESAM, "2", needs_examples=True),
    Entry("lazy", policies.LazySAM, "1 + p"),
    Entry("aesam", policies.AESAM, "1 + share of large gradients"),
    Entry("gsam", descent_rules.GSAM),
    Entry("gnp", descent_rules.GNP),
    Entry("wsam", descent_rules.WSAM),
    Entry("looksam", descent_rules.LookSAM, "1 + 1/k"),
    Entry("crsam", descent_rules.CRSAM, "3"),
    Entry("msam", momentum.MSAM, "1"),
    Entry("presam", PreSAM),
    Entry("trace_sam", sampled.TraceSAM, "n + 1 (antithetic 2n + 1)"),
    Entry("det_sam", sampled.DetSAM, "n + 1 (antithetic 2n + 1)"),
    Entry("frob_sam", sampled.FrobSAM, "n + 1 (antithetic 2n + 1)"),
    Entry("universal", UniversalSAM, "n + 1 (antithetic 2n + 1)", needs_object=True),
)
OPTIMIZERS: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def build(
    name: str,
    base: Optimizer,
    model: nn.Module | None = None,
    scaler: GradScaler | None = None,
    **parameters: Any,
) -> SharpnessAware:
    """The optimizer called ``name`` around ``base``.

    Args:
        name: a registered name, or ``"MODULE:CLASS"`` for a class of your own that takes the base first.
        base: the base optimizer, best built from ``model.named_parameters()``.
        model: the module whose buffers (BatchNorm statistics) to protect; found by itself when not given.
        scaler: a ``torch.amp.GradScaler``, for fp16 autocast.
        parameters: the method's hyper-parameters.

    Raises:
        InvalidInput: unknown name or parameter (with the nearest match), or a value out of range.

    Example:
        >>> model = torch.nn.Linear(3, 2)
        >>> build("sam", torch.optim.SGD(model.named_parameters(), lr=0.1), rho=0.1)
        SAM(rho=0.1, base=SGD)
    """
    factory = OPTIMIZERS[name].factory if name in OPTIMIZERS else load_class(name)
    allowed = hyper_parameters(factory)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    for key in parameters:
        if key not in allowed and (name in OPTIMIZERS or not open_ended):
            raise unknown_name(f"parameter of {name!r}", key, allowed)
    if issubclass(factory, SharpnessAware):
        parameters |= {"model": model, "scaler": scaler}
    try:
        return factory(base, **parameters)
    except SharpbenchError as error:
        raise InvalidInput(f"{name}: {error}") from error


def complete_parameters(
    name: str, parameters: Mapping[str, Any], *, total_steps: int, seed: int = 0
) -> dict[str, Any]:
    """``parameters`` with what a harness knows, where the method asks for it and it isn't given.

    That is ``total_steps``, the length of the training, and ``seed``, of the method's own random draws.

    >>> complete_parameters("aesam", {"delta": 0.8}, total_steps=100)
    {'delta': 0.8, 'total_steps': 100}
    """
    factory = OPTIMIZERS[name].factory if name in OPTIMIZERS else load_class(name)
    asked = hyper_parameters(factory)
    known = {"total_steps": total_steps, "seed": seed}
    return {**dict(parameters), **{k: v for k, v in known.items() if k in asked and k not in parameters}}


def check_parameters(name: str, parameters: Mapping[str, Any], where: str = "") -> None:
    """Raise InvalidInput unless ``build(name, base, **parameters)`` would work; ``where`` leads the message.

    >>> check_parameters("sam", {"rho": -0.1})
    Traceback (most recent call last):
    sharpbench.errors.InvalidInput: sam: rho must be a number >= 0, but got -0.1
    """
    try:
        if name in OPTIMIZERS and OPTIMIZERS[name].needs_object:
            raise InvalidInput(f"{name} takes a measure object, so it can't be named in a suite")
        probe = torch.optim.SGD(nn.Linear(2, 1).named_parameters(), lr=0.1, momentum=0.9)
        build(name, probe, **complete_parameters(name, parameters, total_steps=1))
    except SharpbenchError as error:
        raise InvalidInput(f"{where}: {error}" if where else str(error)) from error


def hyper_parameters(factory: type) -> dict[str, Any]:
    """Names and defaults of a class's hyper-parameters."""
    signature = inspect.signature(factory)
    own = {
        p.name: p.default
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in SharpnessAware.plumbing
    }
    forwards = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    return {**own, **COMMON} if forwards and issubclass(factory, SharpnessAware) else own


def load_class(name: str) -> Any:
    """The optimizer class that ``"MODULE:CLASS"`` names.

    Raises:
        InvalidInput: not of that form (and not registered), not importable, or not an optimizer.
    """
    if ":" not in name:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(load_module(module_name), class_name)
    except ImportError as error:
        raise InvalidInput(
            f"{name}: can't import {module_name!r} ({error}); is it installed or on PYTHONPATH?"
        ) from error
    except AttributeError:
        raise InvalidInput(f"{name}: {module_name} has no {class_name!r}") from None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise InvalidInput(f"{name} must be a subclass of torch.optim.Optimizer that takes the base first")
    return found
