"""What a task of a Slurm array does: its runs, by the local launcher, with a journal for who launched it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ...spec import RunSpec
from ..progress import Progress
from . import Job, Outcome, Settings
from .local import launch

MESSAGE_SECONDS = 0.5  # between two messages of one run: a journal is read over a network


@dataclass(frozen=True)
class Pack:
    """The runs of one task; submitit calls it, and asks for ``checkpoint`` before it requeues the task.

    Attributes:
        jobs: canonical specs and absolute directories.
        settings: of the local launcher in the task.
        journal: the file that messages and outcomes are appended to.
        search_path: where the launching process finds modules.
    """

    jobs: tuple[tuple[str, str], ...]
    settings: Settings
    journal: str
    search_path: tuple[str, ...]

    def __call__(self) -> None:
        """Carry out what is left of the runs; on SIGUSR2 stop them and have the task requeued."""
        sys.path.extend(entry for entry in self.search_path if entry not in sys.path)
        jobs = [Job(RunSpec.model_validate_json(spec), Path(directory)) for spec, directory in self.jobs]
        journal = Journal(Path(self.journal))
        settings = replace(self.settings, listener=journal.progress)
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, _leave)
        try:
            with contextlib.closing(launch(jobs, settings)) as outcomes:
                for outcome in outcomes:
                    journal.ended(outcome)
        except _Leave as leave:
            if leave.number == signal.SIGUSR2:
                signal.signal(signal.SIGUSR2, requeue)
                signal.raise_signal(signal.SIGUSR2)
            raise SystemExit(128 + leave.number) from None

    def checkpoint(self) -> Any:
        """The same again: runs that have ended are not repeated, others go on from their checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Journal:
    """Lines of JSON, appended: ``{"progress": ...}`` and ``{"ended": ...}``."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._told: dict[str, tuple[float, str]] = {}

    def progress(self, message: Progress) -> None:
        """A message, unless the run has said something of the kind just now."""
        when, stage = self._told.get(message.run_id, (-MESSAGE_SECONDS, ""))
        now = self._clock()
        if message.epoch and stage == message.stage and now - when < MESSAGE_SECONDS:
            return
        self._told[message.run_id] = (now, message.stage)
        self._write({"progress": asdict(message)})

    def ended(self, outcome: Outcome) -> None:
        """A run has ended."""
        self._write({"ended": asdict(outcome)})

    def _write(self, entry: dict[str, Any]) -> None:
        # Opened anew for each line: closing is what makes it visible to other machines.
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class JournalReader:
    """Follows a journal that somebody else writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def entries(self) -> list[Progress | Outcome]:
        """What was added since the last call; half a line is left for the next."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except OSError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        read: list[Progress | Outcome] = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                read.append(
                    Progress(**entry["progress"]) if "progress" in entry else Outcome(**entry["ended"])
                )
        return read


class _Leave(BaseException):
    """A signal said that this task is to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    # Slurm sends SIGTERM after SIGUSR2, and may repeat both: the first decides, and the stop isn't disturbed.
    for each in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise _Leave(number)
