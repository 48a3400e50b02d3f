"""How to build the optimizer under test, whoever wrote it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import InvalidInput, SharpbenchError, must_be, unknown_name
from ...functionals import LOG_DET
from .. import registry
from ..base import SharpnessAware
from .watched import base_options, watched_base

# What a base class and a base instance are called in the widespread constructors.
BASE_NAMES = ("base_optimizer", "base", "optimizer")
EXAMPLES = 16
TOTAL_STEPS = 8

Groups = Sequence[dict[str, Any]]


class ConstantRadius:
    """Stands in for a schedule of rho (pytorch_optimizer's GSAM asks for one)."""

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def step(self) -> float:
        """The radius of the next step."""
        return self.rho


@dataclass(frozen=True)
class Built:
    """An optimizer, and whether it wraps the watched base."""

    optimizer: Optimizer
    has_base: bool


@dataclass(frozen=True)
class Subject:
    """An optimizer class with its hyper-parameters. Three constructors are understood:

    - ``Cls(base, **parameters)``: this package's form;
    - ``Cls(params, base_optimizer, rho=..., **options of the base)``, the base as a class or as an
      instance: the form of the published ports;
    - ``Cls(params, lr=..., ...)``: an optimizer without a base.

    Args:
        target: what reports call it.
        factory: the class.
        parameters: its hyper-parameters; what it needs besides (a model, the length of the training, the
            number of examples, a schedule of rho) is filled in.
        base_kind: ``"sgd"`` or ``"adamw"``.
    """

    target: str
    factory: type[Optimizer]
    parameters: dict[str, Any] = field(default_factory=dict)
    base_kind: str = "sgd"

    def with_parameters(self, **parameters: Any) -> Subject:
        """The same class with other hyper-parameters."""
        return replace(self, parameters={**self.parameters, **parameters})

    @property
    def accepts(self) -> dict[str, inspect.Parameter]:
        """The constructor's parameters by name, in order."""
        try:
            return dict(inspect.signature(self.factory).parameters)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{self.target}: its constructor can't be inspected ({error})") from error

    @property
    def takes_base_first(self) -> bool:
        """Whether the constructor is this package's: the base instance first."""
        first = next(iter(self.accepts), "")
        return issubclass(self.factory, SharpnessAware) or first in BASE_NAMES

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """Names and defaults of what a caller may set."""
        return registry.hyper_parameters(self.factory)

    @property
    def evaluates_at_weights(self) -> bool:
        """False for rules whose every pass is at a perturbed point, as momentum SAM's.

        A class says so with the attribute ``evaluates_at_weights = False``. Such a rule can't report the
        loss at x, has BatchNorm statistics of the perturbed point, and may decay the weights there.
        """
        return bool(getattr(self.factory, "evaluates_at_weights", True))

    @property
    def has_radius(self) -> bool:
        """Whether the constructor takes a rho, a bound or a schedule of it, or a radius."""
        names = (*self.hyper_parameters, *self.accepts)
        return any(name == "radius" or name.startswith("rho") for name in names)

    @property
    def has_length_rho(self) -> bool:
        """False for rules that mean a perturbation along the gradient to have another length than rho.

        A class says so with the attribute ``perturbation_has_length_rho = False``; a parameter
        ``normalize`` (also ``normalized``, ``normalise``, ``normalised``) that is False says it too.
        """
        chosen = {**self.hyper_parameters, **self.parameters}
        off = any(chosen.get(f"normali{z}e{d}") is False for z in "sz" for d in ("", "d"))
        return bool(getattr(self.factory, "perturbation_has_length_rho", True)) and not off

    def build(
        self,
        groups: Groups,
        model: nn.Module,
        before_base_step: Callable[[], None],
        *,
        lr: float = 0.1,
        weight_decay: float = 0.0,
    ) -> Built:
        """The optimizer around ``groups`` (dicts with ``"params"``: named parameters, and options).

        Raises:
            InvalidInput: no understood constructor accepts it; the message has the class's own error.
        """
        base_class = watched_base(self.base_kind, before_base_step)
        options = base_options(self.base_kind, lr, weight_decay)
        if self.takes_base_first:
            base = base_class([dict(group) for group in groups], **options)
            stand_ins = self._stand_ins(model)
            if issubclass(self.factory, SharpnessAware):
                stand_ins["model"] = None  # found by itself, the harder case
            return Built(self.factory(base, **stand_ins, **self.parameters), True)  # type: ignore[arg-type]
        unnamed = [{**g, "params": [p for _, p in g["params"]]} for g in groups]
        if (slot := next((n for n in BASE_NAMES if n in self.accepts), None)) is None:
            rate = {k: v for k, v in (("lr", lr), ("weight_decay", weight_decay)) if v or k == "lr"}
            rate = {k: v for k, v in rate.items() if k in self.accepts}
            arguments = {**rate, **self._stand_ins(model), **self.parameters}
            return Built(self.factory(unnamed, **arguments), False)
        attempts: list[Callable[[], Optimizer]] = [
            lambda: self.factory(
                unnamed, **{slot: base_class, **options, **self._stand_ins(model), **self.parameters}
            ),
            lambda: self.factory(
                unnamed,
                **{slot: base_class(unnamed, **options), **self._stand_ins(model), **self.parameters},
            ),
        ]
        first: Exception | None = None
        for attempt in attempts:
            try:
                return Built(attempt(), True)
            except Exception as error:
                first = first or error
        assert first is not None
        raise first

    def with_zero_radius(self) -> Subject | None:
        """The same rule with no sharpness in it: rho = 0, or weight = 0; None where it has neither."""
        candidates = []
        if "rho" in self.hyper_parameters:
            candidates.append(self.with_parameters(rho=0.0))
        if "rho_scheduler" in self.accepts:
            candidates.append(self.with_parameters(rho_scheduler=ConstantRadius(0.0)))
        if "weight" in self.hyper_parameters:
            candidates.append(self.with_parameters(weight=0.0))
        for candidate in candidates:
            if candidate.can_be_built():
                return candidate
        return None

    def can_be_built(self) -> bool:
        """Whether the constructor accepts these hyper-parameters."""
        try:
            self.probe()
        except Exception:
            return False
        return True

    def probe(self) -> None:
        """Build once, on a network of one layer; whatever is wrong is raised."""
        with torch.random.fork_rng(devices=[]):
            model = nn.Linear(2, 2)
            self.build([{"params": list(model.named_parameters())}], model, lambda: None)

    def _stand_ins(self, model: nn.Module) -> dict[str, Any]:
        """Values for what the constructor needs and the caller did not give."""
        known: dict[str, Callable[[], Any]] = {
            "model": lambda: model,
            "total_steps": lambda: TOTAL_STEPS,
            "num_data": lambda: EXAMPLES,
            "rho_scheduler": lambda: ConstantRadius(0.05),
            "measure": lambda: LOG_DET,
        }
        asked = set(self.accepts) | set(self.hyper_parameters)
        return {name: make() for name, make in known.items() if name in asked and name not in self.parameters}


def subject_of(target: str | type, parameters: dict[str, Any] | None = None) -> Subject:
    """The subject for a registered name, ``"MODULE:CLASS"`` or a class.

    Raises:
        InvalidInput: an unknown name, a class that isn't an optimizer, or one that can't be built.

    >>> subject_of("sam", {"rho": 0.1}).target
    'sam'
    """
    if isinstance(target, str):
        entry = registry.OPTIMIZERS.get(target)
        factory = entry.factory if entry else registry.load_class(target)
        subject = Subject(target, factory, dict(parameters or {}), (entry.base if entry else "") or "sgd")
    elif isinstance(target, type) and issubclass(target, Optimizer):
        subject = Subject(target.__name__, target, dict(parameters or {}))
    else:
        raise must_be("target", "a registered name, 'MODULE:CLASS' or an optimizer class", target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in subject.accepts.values())
    for key in subject.parameters:
        if key not in subject.hyper_parameters and (
            issubclass(subject.factory, SharpnessAware) or not open_ended
        ):
            raise unknown_name(f"parameter of {subject.target!r}", key, subject.hyper_parameters)
    try:
        subject.probe()
    except SharpbenchError as error:
        raise InvalidInput(f"{subject.target}: {error}") from error
    except Exception as error:
        raise InvalidInput(
            f"{subject.target} can't be built: {type(error).__name__}: {error} (understood: "
            "Cls(base, ...), Cls(params, base_optimizer, rho=...), Cls(params, lr=...); give what else it "
            "needs as a parameter)"
        ) from error
    return subject


def vector(parameters: Sequence[Tensor]) -> Tensor:
    """A copy of all parameters as one vector, in their order."""
    return nn.utils.parameters_to_vector([p.detach() for p in parameters])
