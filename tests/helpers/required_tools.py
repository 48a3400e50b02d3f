"""Tests that need a tool of the machine: skipped with a reason without it, or failed where it is required.

``SHARPBENCH_REQUIRE`` lists the tools, separated by commas, that must be there: the continuous integration
installs them, so that a test which can't run there is a failure and never a silent skip.
"""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType
from typing import NoReturn

import pytest

VARIABLE = "SHARPBENCH_REQUIRE"


def required_tools() -> set[str]:
    """The tools that the environment requires."""
    return {name.strip() for name in os.environ.get(VARIABLE, "").split(",")} - {""}


def without(tool: str, reason: str) -> NoReturn:
    """Ends the test that can't run without the tool: a failure if the tool is required, else a skip.

    Args:
        tool: its name in ``SHARPBENCH_REQUIRE``, such as ``"chromium"``.
        reason: what is missing, for the report of the tests.
    """
    if tool in required_tools():
        pytest.fail(f"{reason} ({VARIABLE} requires {tool})", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def imported(package: str, install: str) -> ModuleType:
    """An optional package, as :func:`pytest.importorskip` gives it, unless it is required.

    Args:
        package: the name to import, which is also its name in ``SHARPBENCH_REQUIRE``.
        install: the command that installs it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of another project's modules are not ours to fail on
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        without(package, f"{package} is not installed: {install}")
