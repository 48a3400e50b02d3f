"""Errors that say what was wrong, what is allowed, and the likely cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SharpbenchError(Exception):
    """Anything sharpbench reports in one line. ``exit_code`` is what the command line returns."""

    exit_code = 1


class InvalidInput(SharpbenchError, ValueError):
    """The caller asked for something that can't be: one clear line, exit code 2, nothing written."""

    exit_code = 2


class RunFailed(SharpbenchError):
    """A run could not be finished (its message is kept with the run); the other runs go on."""


class Interrupted(SharpbenchError):
    """The run was asked to stop; it left a checkpoint and goes on from there next time."""


def unknown_name(kind: str, name: object, allowed: Iterable[str], where: str = "") -> InvalidInput:
    """The error for a name that is not in a closed list, with the nearest match.

    >>> print(unknown_name("optimizer", "sma", ["sam", "sgd"], where="suite.toml: [[optimizer]] 2"))
    suite.toml: [[optimizer]] 2: unknown optimizer 'sma'; did you mean 'sam'? Allowed: sam, sgd
    """
    options = sorted(allowed)
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    place = f"{where}: " if where else ""
    return InvalidInput(f"{place}unknown {kind} {str(name)!r}{hint} Allowed: {', '.join(options)}")


def must_be(what: str, rule: str, got: object, cause: str = "") -> InvalidInput:
    """The error for a value out of range.

    >>> print(must_be("rho", ">= 0", -0.1))
    rho must be >= 0, but got -0.1
    """
    return InvalidInput(f"{what} must be {rule}, but got {got!r}" + (f" ({cause})" if cause else ""))
