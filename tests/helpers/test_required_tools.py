"""A test without its tool is skipped with a reason, and fails where the tool is required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from required_tools import VARIABLE, imported, required_tools, without

ROOT = Path(__file__).parents[2]


def test_a_missing_tool_is_a_skip_or_where_it_is_required_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert required_tools() == set()
    with pytest.raises(pytest.skip.Exception, match="no lathe here"):
        without("lathe", "no lathe here")
    monkeypatch.setenv(VARIABLE, "anvil, lathe,,")
    assert required_tools() == {"anvil", "lathe"}
    with pytest.raises(pytest.fail.Exception, match=rf"no lathe here \({VARIABLE} requires lathe\)"):
        without("lathe", "no lathe here")


def test_an_optional_package_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "no_such_package")
    assert imported("json", "never").dumps([1]) == "[1]"
    with pytest.raises(pytest.fail.Exception, match="no_such_package is not installed: pip install it"):
        imported("no_such_package", "pip install it")
    with pytest.raises(pytest.skip.Exception, match="not installed: pip install other"):
        imported("no_such_other", "pip install other")


@pytest.mark.parametrize(("required", "ends"), [("", (0, "skipped")), ("chromium,slurm", (1, "error"))])
@pytest.mark.parametrize("place", ["report/test_report_browser.py", "slurm/test_launch_slurm.py"])
def test_browser_and_slurm_tests_where_neither_is_installed(
    tmp_path: Path, place: str, required: str, ends: tuple[int, str]
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{place}"]
    # Nothing but Python can be found by name: no browser, no daemons, no way to install them.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PATH": str(tmp_path), VARIABLE: required, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == ends[0], done.stdout[-2000:]
    closing = done.stdout.splitlines()[-1]
    assert ends[1] in closing
    assert "passed" not in closing
