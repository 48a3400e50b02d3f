"""Launchers: given runs and their directories, carry them out and yield outcomes as they come.

The interface is one generator function a launcher::

    def launch(jobs: Sequence[Job], settings: Settings) -> Generator[Outcome]

A launcher knows nothing of training. It calls :func:`sharpbench.bench.launch.attempt.attempt` in
whatever process it likes, passes :class:`~sharpbench.bench.progress.Progress` messages to
``settings.listener``, and yields exactly one :class:`Outcome` a job. Closing the generator, or an
exception in it (Ctrl-C), stops every worker at once; nothing half-done counts as finished, since
``result.json`` is written last.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import unknown_name
from ...spec import RunSpec
from ..progress import Listener

EXECUTE = "sharpbench.bench.run:execute"


@dataclass(frozen=True)
class Job:
    """One run to carry out, and the directory it writes."""

    spec: RunSpec
    directory: Path

    @property
    def run_id(self) -> str:
        """The run's id (it names the directory)."""
        return self.directory.name


@dataclass(frozen=True)
class Outcome:
    """How a run ended; ``reason`` says why it failed or diverged, ``here`` whether this launch ran it."""

    run_id: str
    status: Literal["done", "diverged", "failed"]
    reason: str = ""
    attempts: int = 1
    here: bool = True


@dataclass(frozen=True)
class Settings:
    """What a launcher may be told.

    Attributes:
        execute: ``"module:function"``, called as ``function(spec, directory, listener, device)``.
        listener: gets every progress message, in the launching process.
        device: passed on; None leaves the choice to ``execute``.
        workers: processes side by side; None means one for every ``task.threads`` cores.
    """

    execute: str = EXECUTE
    listener: Listener | None = None
    device: str | None = None
    workers: int | None = None


Outcomes = Generator[Outcome, None, None]
Launcher = Callable[[Sequence[Job], Settings], Outcomes]
LAUNCHERS = {
    "inline": "sharpbench.bench.launch.inline:launch",
    "local": "sharpbench.bench.launch.local:launch",
}


def find_launcher(name: str) -> Launcher:
    """The launcher of that name.

    Raises:
        InvalidInput: unknown.
    """
    if name not in LAUNCHERS:
        raise unknown_name("launcher", name, LAUNCHERS)
    module, _, function = LAUNCHERS[name].partition(":")
    launcher: Launcher = getattr(importlib.import_module(module), function)
    return launcher
