"""The command line in this process: no traceback, no hang, a known exit code."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner, Result

from sharpbench.cli import app
from sharpbench.spec import RunSpec

SECONDS = 20
WHOLE_RUNS = "SHARPBENCH_FUZZ_WHOLE_RUNS"


def run_by_copy(spec: RunSpec, directory: Path, listener: object = None, device: str | None = None) -> str:
    """An ``execute`` that gives the files of an undamaged run, which the real one would give too."""
    whole = Path(os.environ[WHOLE_RUNS]) / spec.id
    for path in sorted(whole.iterdir(), key=lambda path: path.name == "result.json"):
        if not path.name.startswith("."):
            shutil.copy(path, directory / path.name)
    return "done"


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """An AssertionError after a time no call needs."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"no answer within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(*arguments: object, allowed: tuple[int, ...] = (0, 2)) -> Result:
    """Invoke the command line; what it says on an error of input is one line."""
    with no_hang():
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback from {arguments}") from result.exception
    assert result.exit_code in allowed, result.output
    if result.exit_code == 2:
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    return result
