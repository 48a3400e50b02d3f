"""A worker process: takes runs from its pipe, one after the other, until the pipe or the parent ends."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import threading
from dataclasses import replace
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path

from ...spec import RunSpec
from ...training import interrupt
from ..progress import Progress
from . import Job, Outcome, Settings
from .attempt import attempt

# What a worker is sent: the canonical spec and the directory; and what it sends back.
Order = tuple[str, str]
Report = Progress | Outcome | None
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name)]


def serve(pipe: Connection, settings: Settings) -> None:
    """The main function of a worker. None as an answer means: another process holds that run.

    SIGTERM, and SIGUSR2 (what batch systems send before the time limit), ask the present run for a
    checkpoint; after it the worker leaves.
    """
    # Ctrl-C reaches the whole process group; the parent alone decides, and stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # A segfault writes the Python stack to the run's captured output, which ends up in error.log.
    faulthandler.enable(2)
    settings = replace(settings, listener=lambda progress: _send(pipe, progress))
    first = True
    with interrupt.stop_on_signals(*STOP_SIGNALS):
        while not interrupt.requested():
            try:
                order: Order = pipe.recv()
            except (EOFError, OSError):
                return
            spec, directory = order
            job = Job(RunSpec.model_validate_json(spec), Path(directory))
            _send(pipe, attempt(job, settings, capture=True))
            _collect_garbage(first)
            first = False


def _collect_garbage(first: bool) -> None:
    """Free the run's network and optimizer at once: closures tie them into cycles of a few objects that hold
    megabytes, which Python's own collector, counting objects, lets pile up over hundreds of runs.
    """
    gc.collect()
    if first:
        # What is left after the first run is libraries: not to be walked through every time. (Nor to be
        # counted, as gc.get_freeze_count does: 400 000 objects, 20 ms.)
        gc.freeze()


def _send(pipe: Connection, report: Report) -> None:
    with contextlib.suppress(OSError):  # the parent is gone; the watch below ends this process
        pipe.send(report)


def _die_with_parent() -> None:
    """Wait until the parent has died, however it died, and leave at once.

    A run in the middle of an epoch would otherwise go on for minutes in an orphan, holding its
    directory and a core.
    """
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
