"""Axes, products and unions: from the tables of a suite to points and labelled optimizers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any

from ..errors import InvalidInput, must_be, unknown_name
from ..spec import RunSpec, TaskSpec
from .tables import LARGEST, check_table, shown, word

MOST_RUNS = 100_000
LONGEST_LABEL = 120
AXES = ("seed", *TaskSpec.model_fields)
OVERRIDES = ("lr", "weight_decay", "momentum")
Point = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One optimizer of a suite with every swept axis fixed."""

    name: str
    label: str
    parameters: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, float] = field(default_factory=dict)
    epochs_multiplier: float = 1.0

    def task(self, task: TaskSpec) -> TaskSpec:
        """The task this variant trains: its own learning rate and so on, its own number of epochs."""
        epochs = max(1, round(task.epochs * self.epochs_multiplier))
        return task.model_copy(update={**self.overrides, "epochs": epochs})


def listed(value: object, where: str) -> list[Any]:
    """A scalar as a list of one; an empty list is refused.

    >>> listed(0.5, "x"), listed([0, 1], "x")
    ([0.5], [0, 1])
    """
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InvalidInput(f"{where} is an empty list; give at least one value, or leave the key out")
    return values


def matrix_points(table: Mapping[str, Any], where: str) -> list[Point]:
    """Every combination of one ``[matrix]`` table, each value checked; the seed varies fastest.

    >>> matrix_points({"seed": [0, 1], "label_noise": 0.5}, "x.toml: [matrix]")
    [{'label_noise': 0.5, 'seed': 0}, {'label_noise': 0.5, 'seed': 1}]
    """
    if not table:
        raise InvalidInput(f"{where} is empty; name at least one axis, such as seed = [0, 1, 2]")
    axes: dict[str, list[Any]] = {}
    for key in sorted(table, key=lambda name: name == "seed"):
        if key not in AXES:
            raise unknown_name("axis", key, AXES, where)
        model: type[RunSpec | TaskSpec] = RunSpec if key == "seed" else TaskSpec
        axes[key] = [_checked(model, key, value, where) for value in listed(table[key], f"{where} {key}")]
    if prod(len(values) for values in axes.values()) > MOST_RUNS:
        raise InvalidInput(f"{where} asks for more than {MOST_RUNS} combinations; split the suite")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _checked(model: type[RunSpec | TaskSpec], key: str, value: object, where: str) -> Any:
    if model is TaskSpec:
        return getattr(check_table(TaskSpec, {key: value}, where), key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST["seed"]:
        raise must_be(f"{where} {key}", f"a whole number from 0 to {LARGEST['seed']}", shown(value))
    return value


def variants(table: Mapping[str, Any], where: str) -> Iterator[Variant]:
    """The optimizers one ``[[optimizer]]`` table stands for: every combination of its list values.

    >>> [v.label for v in variants({"name": "sam", "rho": [0.05, 0.1]}, "x.toml: [[optimizer]] 1")]
    ['sam rho=0.05', 'sam rho=0.1']
    """
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f'{where}: name is missing; write name = "sam", or name = "MODULE:CLASS"')
    label = table.get("label", name.rpartition(":")[2])
    place = f"{where} {shown(name)!r}:"
    if not isinstance(label, str) or not label.strip():
        raise must_be(f"{place} label", "a string of at least one letter", shown(label))
    axes = {
        key: listed(value, f"{place} {word(key)}")
        for key, value in table.items()
        if key not in ("name", "label")
    }
    if prod(len(values) for values in axes.values()) > MOST_RUNS:
        raise InvalidInput(f"{place} more than {MOST_RUNS} combinations")
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        for key, value in chosen.items():
            require_json(value, f"{place} {word(key)}")
        suffixes = [f"{key}={_short(chosen[key])}" for key in axes if isinstance(table[key], list)]
        multiplier = chosen.pop("epochs_multiplier", 1.0)
        if not _is_number(multiplier) or not 0 < multiplier <= 1000:
            raise must_be(f"{place} epochs_multiplier", "a number > 0 and <= 1000", shown(multiplier))
        overrides = {
            key: _checked(TaskSpec, key, chosen.pop(key), place) for key in OVERRIDES if key in chosen
        }
        full_label = " ".join([label.strip(), *suffixes])
        if not full_label.isprintable() or len(full_label) > LONGEST_LABEL:
            rule = f"at most {LONGEST_LABEL} printable characters"
            raise must_be(f"{place} label", rule, shown(full_label), "set label to something short")
        yield Variant(name, full_label, chosen, overrides, float(multiplier))


def require_json(value: object, where: str) -> None:
    """Refuse what can't be part of a run's identity: dates, infinities, NaN, numbers beyond 64 bits."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            require_json(inner, f"{where}.{word(key)}")
    elif isinstance(value, list):
        for inner in value:
            require_json(inner, where)
    elif isinstance(value, float) and not isfinite(value):
        raise must_be(where, "a finite number", value)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise must_be(where, "a number of at most 64 bits", shown(value))
    elif not isinstance(value, bool | int | float | str):
        raise must_be(where, "a number, a string, true or false, or a table of those", shown(str(value)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _short(value: object) -> str:
    # json gives true, 0.05 and {"name": "trace"} about as they stand in the file.
    return value if isinstance(value, str) else json.dumps(value)
