"""Preconditioners by name, so that a suite file can compose them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..errors import SharpbenchError, must_be, unknown_name
from .ascent import (
    ConstraintPreconditioner,
    ElementwiseScale,
    FriendlyResidual,
    GradientEMA,
    InverseRootFisher,
    InverseVariance,
    ObjectivePreconditioner,
    SignGradient,
    TopMagnitude,
)

OBJECTIVES: Mapping[str, type[ObjectivePreconditioner]] = {
    "friendly_residual": FriendlyResidual,
    "gradient_ema": GradientEMA,
    "inverse_variance": InverseVariance,
    "sign_gradient": SignGradient,
    "top_magnitude": TopMagnitude,
}
CONSTRAINTS: Mapping[str, type[ConstraintPreconditioner]] = {
    "elementwise_scale": ElementwiseScale,
    "inverse_root_fisher": InverseRootFisher,
}


def objective_of(given: Any) -> list[ObjectivePreconditioner]:
    """A chain from one preconditioner or several, each an object or a table ``{"name": ..., ...}``.

    >>> [type(part).__name__ for part in objective_of({"name": "top_magnitude", "n": 3})]
    ['TopMagnitude']
    """
    chain = [given] if isinstance(given, Mapping | ObjectivePreconditioner) else given
    if isinstance(chain, str) or not hasattr(chain, "__iter__"):
        raise must_be(
            "objective", "an ObjectivePreconditioner, a table with a name, or a list of them", given
        )
    return [
        part if isinstance(part, ObjectivePreconditioner) else _made(part, OBJECTIVES, "objective")
        for part in chain
    ]


def constraint_of(given: Any) -> ConstraintPreconditioner | None:
    """A constraint preconditioner from an object, a table ``{"name": ..., ...}`` or None."""
    if given is None or isinstance(given, ConstraintPreconditioner):
        return given
    made: ConstraintPreconditioner = _made(given, CONSTRAINTS, "constraint")
    return made


def _made(table: Any, known: Mapping[str, type[Any]], what: str) -> Any:
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise must_be(what, "a preconditioner, or a table such as { name = ..., ... }", table)
    name = table["name"]
    if name not in known:
        raise unknown_name(f"{what} preconditioner", name, known)
    parameters = {key: value for key, value in table.items() if key != "name"}
    allowed = inspect.signature(known[name]).parameters
    for key in parameters:
        if key not in allowed:
            raise unknown_name(f"parameter of {name!r}", key, allowed)
    try:
        return known[name](**parameters)
    except SharpbenchError as error:
        raise type(error)(f"{name}: {error}") from error
