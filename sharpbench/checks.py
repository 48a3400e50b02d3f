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
