"""Check a table of a suite file against one of the models of spec.py, in one clear line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..errors import InvalidInput, must_be, unknown_name
from ..spec import Frozen

Model = TypeVar("Model", bound=Frozen)

# A typing slip such as epochs = 60000000 would otherwise show only after the machine is stuck.
LARGEST = {
    "seed": 2**32 - 1,
    "epochs": 1_000_000,
    "batch_size": 10_000_000,
    "threads": 1024,
    "examples": 100_000_000,
    "hvps": 1_000_000,
}
# One line must stay readable whatever was pasted into the file.
_LONGEST_VALUE = 80


def check_table(model: type[Model], table: Mapping[str, Any], where: str) -> Model:
    """``model`` filled from ``table``, types taken strictly (``true`` is no number, ``"3"`` neither).

    Raises:
        InvalidInput: an unknown key (with the nearest match), a wrong type or a value out of range.

    >>> from ..spec import TaskSpec
    >>> check_table(TaskSpec, {"epochs": 3}, "x.toml: [task]").epochs
    3
    >>> check_table(TaskSpec, {"epochs": True}, "x.toml: [task]")
    Traceback (most recent call last):
    sharpbench.errors.InvalidInput: x.toml: [task] epochs must be a whole number >= 1, but got True
    """
    for key in table:
        if key not in model.model_fields:
            raise unknown_name("key", key, model.model_fields, where)
    for key, value in table.items():
        largest = LARGEST.get(key)
        if largest is not None and isinstance(value, int) and value > largest:
            raise must_be(f"{where} {key}", f"<= {largest}", shown(value), "is it a slip?")
    # TOML knows lists only, and a strict tuple field refuses them.
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    try:
        return model.model_validate(values, strict=True)
    except ValidationError as error:
        key = str(error.errors(include_url=False)[0]["loc"][0])
        rule = describe(model.model_fields[key])
        raise must_be(f"{where} {key}", rule, shown(table.get(key))) from None


def describe(field: FieldInfo) -> str:
    """What a field allows, in words.

    >>> from ..spec import TaskSpec
    >>> describe(TaskSpec.model_fields["momentum"])
    'a number >= 0 and < 1'
    """
    kind = field.annotation
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of strings"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}
    bounds = []
    for rule in field.metadata:
        if isinstance(rule, Ge):
            bounds.append(f">= {rule.ge}")
        elif isinstance(rule, Gt):
            bounds.append(f"> {rule.gt}")
        elif isinstance(rule, Le):
            bounds.append(f"<= {rule.le}")
        elif isinstance(rule, Lt):
            bounds.append(f"< {rule.lt}")
    name = words.get(kind, "of another type") if isinstance(kind, type) else "of another type"
    return f"{name} {' and '.join(bounds)}" if bounds else name


def require_table(value: object, where: str) -> dict[str, Any]:
    """``value`` as a table.

    Raises:
        InvalidInput: it is something else, such as ``task = 3``.
    """
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} must be a table, but got {shown(value)!r}")
    return value


def word(key: str) -> str:
    """A key as a message may repeat it: bare as in most files, quoted where it holds anything odd.

    >>> print(word("rho"), word("a b"))
    rho 'a b'
    """
    return key if key.isidentifier() and len(key) <= _LONGEST_VALUE else repr(shown(key))


def shown(value: object) -> Any:
    """``value`` as an error message may repeat it: short, and itself where it can be."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return _Text("a number of thousands of digits")
    return value if len(text) <= _LONGEST_VALUE else _Text(text[: _LONGEST_VALUE - 1] + "…")


class _Text(str):
    """Text that is its own repr, so that a shortened value isn't quoted twice."""

    def __repr__(self) -> str:
        return str(self)
