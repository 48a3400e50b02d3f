"""Worker processes of the local launcher: started, given orders, stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from ...allocator import preload
from ..progress import Progress
from . import Job, Settings
from .worker import serve

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass
class Worker:
    """A process, the pipe to it, and the run it is at."""

    process: SpawnProcess
    pipe: Connection
    device: str | None
    job: Job | None = None

    def order(self, job: Job, settings: Settings) -> None:
        """Send it a run."""
        self.job = job
        if settings.listener is not None:
            settings.listener(Progress(job.run_id, "training", 0, job.spec.task.epochs))
        # A worker that is already dead is found by the wait, as a pipe at its end.
        with contextlib.suppress(OSError):
            self.pipe.send((job.spec.canonical(), str(job.directory)))

    def death(self) -> str:
        """How it ended, for people."""
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return how + ("; out of memory?" if code == -signal.SIGKILL else "")

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def start(settings: Settings, threads: int, device: str | None) -> Worker:
    """A new worker on ``device``; it imports what it needs with its first run."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    # A listener lives in this process; workers report through their pipe.
    told = replace(settings, listener=None, notice=None, device=device)
    process = context.Process(target=serve, args=(there, told), name="sharpbench worker")
    # Not a daemon: daemons may have no children, and a run may load its data in processes of its own.
    with _without_interrupt(), thread_environment(threads, preload() if device in (None, "cpu") else None):
        process.start()
    # The worker's end must be open in the worker alone, or its death would not close the pipe.
    there.close()
    return Worker(process, here, device)


def stop_all(workers: Sequence[Worker], grace_seconds: float) -> None:
    """Ask those at work for a checkpoint, wait for them, and kill who is left; Ctrl-C cuts the wait short."""
    try:
        for worker in workers:
            if worker.job is not None:
                worker.process.terminate()
            else:
                worker.process.kill()
            # Nobody listens any more: a worker must not wait at a full pipe, or for another order.
            worker.pipe.close()
        deadline = time.monotonic() + grace_seconds
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.kill()


@contextlib.contextmanager
def thread_environment(threads: int, preloaded: str | None = None) -> Iterator[None]:
    """Thread counts, and an allocator, for what reads them when it is loaded: before any run is known."""
    values = dict.fromkeys(THREAD_VARIABLES, str(threads))
    if preloaded is not None:
        values["LD_PRELOAD"] = preloaded
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
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
