"""What a suite comes to: every planned run, and the axes and baseline reports compare along."""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue, ValidationError

from ..errors import InvalidInput
from ..spec import SCHEMA_VERSION, Frozen, RunSpec


class PlannedRun(Frozen):
    """One run as reports know it: the optimizer's label and the value of each condition axis."""

    run_id: str
    label: str
    condition: dict[str, JsonValue]
    spec: RunSpec

    @property
    def title(self) -> str:
        """For people: ``sam rho=0.1 · label_noise=0.5 · seed 2``."""
        condition = [f"{axis}={value}" for axis, value in self.condition.items()]
        return " · ".join([self.label, *condition, f"seed {self.spec.seed}"])


class Plan(Frozen):
    """The content of ``plan.json`` (docs/formats.md)."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    title: str
    reference: str
    text: str
    axes: tuple[str, ...]
    baseline: str
    runs: tuple[PlannedRun, ...]

    @property
    def labels(self) -> list[str]:
        """Optimizers, in the order of the suite."""
        return list(dict.fromkeys(run.label for run in self.runs))

    @property
    def conditions(self) -> list[dict[str, Any]]:
        """Distinct conditions, in the order of the suite."""
        distinct = {tuple(run.condition.items()): dict(run.condition) for run in self.runs}
        return list(distinct.values())

    def dump(self) -> str:
        """The text of ``plan.json``: the same plan gives the same bytes."""
        return self.model_dump_json(indent=1) + "\n"


def parse_plan(text: str | bytes, where: str) -> Plan:
    """A plan from the text of a ``plan.json``.

    Raises:
        InvalidInput: damaged, or written by another version.
    """
    try:
        plan = Plan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InvalidInput(
            f"{where} is damaged, or of another version of sharpbench: {place}: {first['msg']}"
        ) from None
    if plan.schema_version != SCHEMA_VERSION:
        raise InvalidInput(
            f"{where} has schema version {plan.schema_version}; this sharpbench reads {SCHEMA_VERSION}"
        )
    return plan
