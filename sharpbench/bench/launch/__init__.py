"""Launchers: given runs and their directories, carry them out and yield outcomes as they come.

The interface is one generator function a launcher::

    def launch(jobs: Sequence[Job], settings: Settings) -> Generator[Outcome]

A launcher knows nothing of training. It calls :func:`sharpbench.bench.launch.attempt.attempt` in
whatever process it likes, passes :class:`~sharpbench.bench.progress.Progress` messages to
``settings.listener``, and yields exactly one :class:`Outcome` a job. Closing the generator, or an
exception in it (Ctrl-C), stops everything: each run in progress is asked for a checkpoint and has
``settings.grace_seconds`` to write it. Nothing half-done counts as finished, since ``result.json`` is
written last; what was stopped goes on from its checkpoint at the next launch.

docs/launchers.md has the options of each and a worked example.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import InvalidInput, unknown_name
from ...spec import RunSpec
from ..progress import Listener

EXECUTE = "sharpbench.bench.run:execute"
# A step and the writing of a checkpoint, with room to spare; nobody waits longer at a prompt.
GRACE_SECONDS = 5.0


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
    """How a run ended; ``reason`` says why it failed or diverged, ``here`` whether this launch ran it.

    ``interrupted`` is not an end: the run was asked to stop, and goes on from its checkpoint next time.
    """

    run_id: str
    status: Literal["done", "diverged", "failed", "interrupted"]
    reason: str = ""
    attempts: int = 1
    here: bool = True


@dataclass(frozen=True)
class Settings:
    """What a launcher may be told.

    Attributes:
        execute: ``"module:function"``, called as ``function(spec, directory, listener, device)``.
        listener: gets every progress message, in the launching process.
        device: passed on; None leaves the choice to ``execute``. ``"cuda"`` means every GPU there is: a
            launcher gives each run one of them.
        workers: runs side by side; None means as many as there is room for.
        per_gpu: runs that share a GPU.
        address: of a running Ray cluster; None starts one on this machine for the launch.
        slurm: options of the job array, as ``--slurm KEY=VALUE`` gives them.
        grace_seconds: how long runs that are told to stop have for their checkpoints.
        notice: gets lines for people: the id of an array, the address of a cluster.
    """

    execute: str = EXECUTE
    listener: Listener | None = None
    device: str | None = None
    workers: int | None = None
    per_gpu: int = 1
    address: str | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)
    grace_seconds: float = GRACE_SECONDS
    notice: Callable[[str], None] | None = None

    def say(self, line: str) -> None:
        """Pass a line to whoever looks on."""
        if self.notice is not None:
            self.notice(line)


Outcomes = Generator[Outcome, None, None]
Launcher = Callable[[Sequence[Job], Settings], Outcomes]
LAUNCHERS = {
    "inline": "sharpbench.bench.launch.inline:launch",
    "local": "sharpbench.bench.launch.local:launch",
    "ray": "sharpbench.bench.launch.on_ray:launch",
    "slurm": "sharpbench.bench.launch.on_slurm:launch",
}
# What a launcher needs beyond sharpbench itself; the extra has the launcher's name.
NEEDS = {"ray": "ray", "slurm": "submitit"}


def find_launcher(name: str) -> Launcher:
    """The launcher of that name.

    Raises:
        InvalidInput: unknown, or of an extra that is not installed.

    >>> find_launcher("inline").__module__
    'sharpbench.bench.launch.inline'
    """
    if name not in LAUNCHERS:
        raise unknown_name("launcher", name, LAUNCHERS)
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise InvalidInput(
            f"launcher {name!r} needs the package {needed}, which is not installed; "
            f"install it with: pip install 'sharpbench[{name}]'"
        )
    module, _, function = LAUNCHERS[name].partition(":")
    launcher: Launcher = getattr(importlib.import_module(module), function)
    return launcher
