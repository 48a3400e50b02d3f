"""The local launcher: persistent worker processes on this machine, one a slot.

Workers are spawned, not forked (a fork of a process with live threads may deadlock), import torch
once, and serve one run after the other. A worker that dies (killed for memory, a segfault) is
replaced and its run tried again, from its checkpoint if it has one; a run that has cost ``ATTEMPTS``
workers is a failed run.

Each worker has a pipe of its own: a queue shared by all has a lock, and a worker killed while it
holds that lock would stop everybody else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import connection

from ..progress import Progress
from ..store import claimed
from . import Job, Outcome, Outcomes, Settings
from .attempt import record_failure
from .inline import BUSY_PAUSE
from .processes import Worker, start, stop_all
from .slots import devices

ATTEMPTS = 3


def launch(jobs: Sequence[Job], settings: Settings) -> Outcomes:
    """Carry out ``jobs`` in the given order, as many side by side as there are slots.

    Closed, or ended by an exception (Ctrl-C, SIGTERM), it tells its workers to stop: each writes a
    checkpoint within ``settings.grace_seconds`` or is killed; another Ctrl-C kills them at once.

    Raises:
        InvalidInput: see :func:`~sharpbench.bench.launch.slots.devices`.
    """
    if not jobs:
        return
    threads = max(job.spec.task.threads for job in jobs)
    slots = devices(settings, threads)[: len(jobs)]
    workers: list[Worker] = []
    try:
        for device in slots:
            workers.append(start(settings, threads, device))
        yield from _serve_all(deque(jobs), workers, settings, threads)
    finally:
        stop_all(workers, settings.grace_seconds)


def _serve_all(queue: deque[Job], workers: list[Worker], settings: Settings, threads: int) -> Outcomes:
    deaths: dict[str, int] = {}
    held_elsewhere: list[Job] = []
    look_again = 0.0
    while queue or held_elsewhere or any(worker.job for worker in workers):
        if held_elsewhere and time.monotonic() >= look_again:
            queue.extend(held_elsewhere)
            held_elsewhere.clear()
        for worker in workers:
            if worker.job is None and queue:
                worker.order(queue.popleft(), settings)
        busy = [worker.pipe for worker in workers if worker.job]
        # A dead worker shows as a pipe at its end, so one wait covers messages and deaths.
        timeout = max(0.0, look_again - time.monotonic()) if held_elsewhere else None
        if not busy:
            time.sleep(timeout or 0.0)
            continue
        ready = connection.wait(busy, timeout)
        for place, worker in enumerate(workers):
            if worker.pipe not in ready or worker.job is None:
                continue
            job = worker.job
            report: Progress | Outcome | None
            try:
                report = worker.pipe.recv()
            except (EOFError, OSError):
                report = Outcome(job.run_id, "interrupted", "")
            if isinstance(report, Progress):
                if settings.listener is not None:
                    settings.listener(report)
                continue
            worker.job = None
            if report is None:
                if not held_elsewhere:
                    look_again = time.monotonic() + BUSY_PAUSE
                held_elsewhere.append(job)
            elif report.status == "interrupted":
                # It died, or somebody told it to stop who didn't tell us: it is gone, or goes. The exit code
                # comes a moment after the last message; killing at once would fake one.
                worker.process.join(1.0)
                worker.kill()
                workers[place] = start(settings, threads, worker.device)
                deaths[job.run_id] = deaths.get(job.run_id, 0) + 1
                if deaths[job.run_id] < ATTEMPTS:
                    settings.say(
                        f"a worker {worker.death()}; run {job.run_id} is tried again "
                        f"(attempt {deaths[job.run_id] + 1} of {ATTEMPTS})"
                    )
                    queue.appendleft(job)
                else:
                    yield lost(job, f"The worker process {worker.death()}")
            else:
                yield replace(report, attempts=deaths.get(job.run_id, 0) + 1)


def lost(job: Job, how: str, attempts: int = ATTEMPTS) -> Outcome:
    """The failure of a run that has cost too many processes; ``how`` they ended."""
    cause = ""
    if how.endswith("; out of memory?"):
        how, cause = how.removesuffix("; out of memory?"), "; out of memory?"
    account = f"{how} in {attempts} attempts at this run{cause}"
    with claimed(job.directory) as mine:
        if mine:
            return record_failure(job, account, attempts)
    return Outcome(job.run_id, "failed", account, attempts)
