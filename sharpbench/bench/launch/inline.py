"""The inline launcher: one run after the other in this process. For debuggers and profilers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ..progress import Progress
from . import Job, Outcomes, Settings
from .attempt import attempt
from .slots import devices
from .stopping import checkpoint_first

BUSY_PAUSE = 0.5  # seconds between looks at runs that another process has claimed


def launch(jobs: Sequence[Job], settings: Settings) -> Outcomes:
    """Carry out ``jobs`` in order; those that another process holds come last.

    A stop (Ctrl-C, SIGTERM, or :func:`sharpbench.training.interrupt.request_stop`) ends the launch after
    the checkpoint of the present run; its outcome is ``interrupted``.
    """
    queue = deque(jobs)
    busy = 0
    settings = replace(settings, device=devices(replace(settings, workers=1), threads=1)[0])
    while queue:
        job = queue.popleft()
        if settings.listener is not None:
            settings.listener(Progress(job.run_id, "training", 0, job.spec.task.epochs))
        with checkpoint_first(settings) as stop:
            outcome = attempt(job, settings)
        if outcome is not None:
            busy = 0
            yield outcome
            stop.follow()
            if outcome.status == "interrupted":
                return
            continue
        stop.follow()
        queue.append(job)
        busy += 1
        if busy >= len(queue):
            time.sleep(BUSY_PAUSE)
            busy = 0
