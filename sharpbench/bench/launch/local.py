"""The local launcher: persistent worker processes on this machine, one a slot.

Workers are spawned, not forked (a fork of a process with live threads may deadlock), import torch
once, and serve one run after the other. A worker that dies (killed for memory, a segfault) is
replaced and its run tried again; a run that has cost ``ATTEMPTS`` workers is a failed run.

Each worker has a pipe of its own: a queue shared by all has a lock, and a worker killed while it
holds that lock would stop everybody else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from ...errors import must_be
from ..progress import Progress
from ..store import claimed
from . import Job, Outcome, Outcomes, Settings
from .attempt import record_failure
from .inline import BUSY_PAUSE
from .worker import serve

ATTEMPTS = 3
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    job: Job | None = None


def launch(jobs: Sequence[Job], settings: Settings) -> Outcomes:
    """Carry out ``jobs`` in the given order, as many side by side as there are workers."""
    if not jobs:
        return
    threads = max(job.spec.task.threads for job in jobs)
    slots = min(worker_count(settings.workers, threads), len(jobs))
    told = replace(settings, listener=None)  # a listener lives here; workers report through their pipe
    workers: list[_Worker] = []
    try:
        for _ in range(slots):
            workers.append(_start(told, threads))
        yield from _serve_all(deque(jobs), workers, settings, told, threads)
    finally:
        for worker in workers:
            _stop(worker)


def worker_count(asked: int | None, threads: int) -> int:
    """How many workers: as asked, or one for every ``threads`` cores this process may use.

    >>> worker_count(3, threads=1)
    3
    """
    if asked is not None and asked < 1:
        raise must_be("workers", ">= 1", asked)
    return asked or max(1, available_cores() // threads)


def available_cores() -> int:
    """Cores this process may use (an affinity mask, as batch systems set it, counts)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _serve_all(
    queue: deque[Job], workers: list[_Worker], settings: Settings, told: Settings, threads: int
) -> Outcomes:
    deaths: dict[str, int] = {}
    held_elsewhere: list[Job] = []
    look_again = 0.0
    while queue or held_elsewhere or any(worker.job for worker in workers):
        if held_elsewhere and time.monotonic() >= look_again:
            queue.extend(held_elsewhere)
            held_elsewhere.clear()
        for worker in workers:
            if worker.job is None and queue:
                _order(worker, queue.popleft(), settings)
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
            try:
                report = worker.pipe.recv()
            except (EOFError, OSError):
                # The pipe closes a moment before the exit code is there; killing at once would fake one.
                worker.process.join(1.0)
                _stop(worker)
                workers[place] = _start(told, threads)
                deaths[job.run_id] = deaths.get(job.run_id, 0) + 1
                if deaths[job.run_id] < ATTEMPTS:
                    queue.appendleft(job)
                else:
                    yield _lost(job, worker)
                continue
            if isinstance(report, Progress):
                if settings.listener is not None:
                    settings.listener(report)
                continue
            worker.job = None
            if report is None:
                if not held_elsewhere:
                    look_again = time.monotonic() + BUSY_PAUSE
                held_elsewhere.append(job)
            else:
                yield replace(report, attempts=deaths.get(job.run_id, 0) + 1)


def _order(worker: _Worker, job: Job, settings: Settings) -> None:
    worker.job = job
    if settings.listener is not None:
        settings.listener(Progress(job.run_id, "training", 0, job.spec.task.epochs))
    # A worker that is already dead is found by the wait, as a pipe at its end.
    with contextlib.suppress(OSError):
        worker.pipe.send((job.spec.canonical(), str(job.directory)))


def _lost(job: Job, worker: _Worker) -> Outcome:
    code = worker.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    cause = "; out of memory?" if code == -signal.SIGKILL else ""
    account = f"The worker process {how} in {ATTEMPTS} attempts at this run{cause}"
    with claimed(job.directory) as mine:
        if mine:
            return record_failure(job, account, ATTEMPTS)
    return Outcome(job.run_id, "failed", account, ATTEMPTS)


def _start(settings: Settings, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, settings), name="sharpbench worker")
    # Not a daemon: daemons may have no children, and a run may load its data in processes of its own.
    with _without_interrupt(), _environment(threads):
        process.start()
    # The worker's end must be open in the worker alone, or its death would not close the pipe.
    there.close()
    return _Worker(process, here)


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Thread counts for libraries that read them when they are loaded, which is before any run is known."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_interrupt() -> Iterator[None]:
    """Hold back Ctrl-C: a child inherits the mask, so that none can hit it before it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
