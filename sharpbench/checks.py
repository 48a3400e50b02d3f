"""Checks of numbers that people write."""

from __future__ import annotations

from .errors import must_be


def check_number(
    name: str,
    value: float,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """A finite number within bounds, or InvalidInput.

    >>> check_number("theta", 0.9, above=0, at_most=1)
    0.9
    """
    limits = [
        f"{sign} {limit:g}"
        for sign, limit in ((">=", at_least), (">", above), ("<=", at_most), ("<", below))
        if limit is not None
    ]
    rule = "a number" + (" " + " and ".join(limits) if limits else "")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise must_be(name, rule, value)
    inside = (
        value == value
        and abs(value) != float("inf")
        and (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )
    if not inside:
        raise must_be(name, rule, value)
    return value


def check_flag(name: str, value: bool) -> bool:
    """True or False itself: "false" as text would pass for true.

    >>> check_flag("decoupled", False)
    False
    """
    if not isinstance(value, bool):
        raise must_be(name, "true or false", value)
    return value


def check_count(name: str, value: int | None, *, at_least: int = 1) -> int:
    """A whole number, or InvalidInput.

    >>> check_count("k", 5)
    5
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise must_be(name, f"a whole number >= {at_least}", value)
    return value


def check_seed(seed: int) -> int:
    """A whole number that torch's generators take: 0 to 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise must_be("seed", "a whole number from 0 to 2**63 - 1", seed)
    return seed
