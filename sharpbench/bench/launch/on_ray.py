"""The Ray launcher: every run a Ray Core task, on this machine or on a running cluster.

Ray places a task where ``task.threads`` CPUs (or 1 / ``per_gpu`` of a GPU) are free and keeps the process
for the next one, so torch is imported once a slot. A task whose worker or node dies is submitted again, up
to ``ATTEMPTS`` times; the runs write to the output directory, which all nodes must see under one path.

Messages and outcomes: an actor without CPUs holds the mail of all runs until the launcher asks for it; an
outcome is the value of its task.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InvalidInput, must_be
from ..progress import Progress
from . import Job, Outcome, Outcomes, Settings
from .inline import BUSY_PAUSE
from .local import ATTEMPTS, lost
from .processes import thread_environment
from .ray_task import Mailbox, carry_out
from .slots import available_cores

# Enough to show an autoscaler what is wanted; every one more costs the scheduler, and Ctrl-C, time.
IN_FLIGHT = 1000
# Nothing but messages travels through Ray's memory; its smallest store does.
STORE_BYTES = 80 * 2**20


def launch(jobs: Sequence[Job], settings: Settings) -> Outcomes:
    """Carry out ``jobs`` as Ray tasks, in the given order as far as there is room.

    Args:
        jobs: runs and their directories.
        settings: ``address`` of a running cluster (None: one on this machine, for the launch); ``workers``:
            at most so many runs side by side; ``per_gpu``: runs that share a GPU.

    Raises:
        InvalidInput: no cluster at the address, or it has no room for even one run.
    """
    if not jobs:
        return
    threads = max(job.spec.task.threads for job in jobs)
    with _cluster(settings, threads) as has_gpu:
        on_gpu = str(settings.device).startswith("cuda") or (settings.device == "auto" and has_gpu)
        told = replace(settings, device="cuda" if on_gpu else "cpu", listener=None, notice=None)
        yield from _Launch(settings, told, on_gpu).serve(deque(jobs))


class _Launch:
    """The tasks of one launch."""

    def __init__(self, settings: Settings, told: Settings, on_gpu: bool) -> None:
        import ray

        self.ray, self.settings, self.told, self.on_gpu = ray, settings, told, on_gpu
        # On the launching node, which is the one whose death ends everything anyway.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self.mailbox = ray.remote(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)(
            Mailbox
        ).remote()
        # Retried here, so that attempts are counted as in the other launchers. Without max_calls, Ray would
        # end a worker after each GPU task, and torch be imported anew for each run.
        self.task = ray.remote(max_retries=0, max_calls=0)(carry_out)
        self.limit = settings.workers or IN_FLIGHT
        self.running: dict[Any, Job] = {}
        self.deaths: dict[str, int] = {}
        self.held: list[Job] = []

    def serve(self, queue: deque[Job]) -> Outcomes:
        look_again = 0.0
        mail = self.mailbox.take.remote()
        try:
            while queue or self.running or self.held:
                if self.held and time.monotonic() >= look_again:
                    queue.extend(self.held)
                    self.held.clear()
                while queue and len(self.running) < self.limit:
                    self._submit(queue.popleft())
                watched = [mail, *self.running]
                # One to wake up for, then all that are there: a thousand runs are not a thousand waits.
                self.ray.wait(watched, num_returns=1, timeout=BUSY_PAUSE)
                ready, _ = self.ray.wait(watched, num_returns=len(watched), timeout=0)
                # The mail first: what a run said comes before what came of it.
                if mail in ready:
                    self._deliver(self.ray.get(mail))
                    mail = self.mailbox.take.remote()
                for reference in ready:
                    if reference not in self.running:
                        continue
                    job = self.running.pop(reference)
                    outcome = self._outcome(reference, job)
                    if outcome == "again":
                        queue.appendleft(job)
                    elif outcome is None:
                        look_again = time.monotonic() + BUSY_PAUSE
                        self.held.append(job)
                    elif isinstance(outcome, Outcome):
                        yield replace(outcome, attempts=self.deaths.get(job.run_id, 0) + 1)
        finally:
            self._stop()

    def _submit(self, job: Job) -> None:
        options: dict[str, Any] = {}
        if self.on_gpu:
            # A process keeps the GPUs it saw first: it must see all of them to serve a run on each.
            everything = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
            options = {"num_gpus": 1.0 / self.settings.per_gpu, "runtime_env": everything}
        task = self.task.options(name=f"sharpbench {job.run_id}", num_cpus=job.spec.task.threads, **options)
        reference = task.remote(
            job.spec.canonical(), str(job.directory.resolve()), self.told, self.mailbox, _search_path()
        )
        self.running[reference] = job

    def _deliver(self, messages: list[Progress]) -> None:
        if self.settings.listener is not None:
            for message in messages:
                self.settings.listener(message)

    def _outcome(self, reference: Any, job: Job) -> Outcome | str | None:
        """What a task came to; ``"again"`` if its process died and it may try once more."""
        exceptions = self.ray.exceptions
        try:
            outcome: Outcome | None = self.ray.get(reference)
        except exceptions.RayTaskError as error:
            # Not the run's error, which is an outcome: the task could not even begin.
            return Outcome(job.run_id, "failed", f"its Ray task failed: {_first_line(error)}")
        except exceptions.RayError as error:
            how = f"The Ray worker died ({type(error).__name__})"
        else:
            if outcome is None or outcome.status != "interrupted":
                return outcome
            how = "The Ray worker was told to stop"
        self.deaths[job.run_id] = self.deaths.get(job.run_id, 0) + 1
        if self.deaths[job.run_id] < ATTEMPTS:
            attempt = self.deaths[job.run_id] + 1
            self.settings.say(f"{how}; run {job.run_id} is tried again (attempt {attempt} of {ATTEMPTS})")
            return "again"
        failed = lost(job, how)
        self.deaths[job.run_id] = ATTEMPTS - 1
        return failed

    def _stop(self) -> None:
        """Ask the runs in progress for their checkpoints, wait for the grace, then kill their processes."""
        references = list(self.running)
        try:
            for reference in references:
                # Raises in the task what Ctrl-C would; there it asks for a checkpoint.
                self.ray.cancel(reference, force=False)
            if references:
                self.ray.wait(references, num_returns=len(references), timeout=self.settings.grace_seconds)
        finally:
            for reference in references:
                with contextlib.suppress(self.ray.exceptions.RayError, ValueError):
                    self.ray.cancel(reference, force=True)
            self.ray.kill(self.mailbox)


@contextlib.contextmanager
def _cluster(settings: Settings, threads: int) -> Iterator[bool]:
    """Ray, connected or started; whether it has GPUs. A cluster started here ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # its import has set it
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    folder = None
    # Ray puts its own handlers in place of those that `sharpbench run` has for signals.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with warnings.catch_warnings():
            # Ray announces changes of its own defaults; nothing that concerns a user of this launcher.
            warnings.simplefilter("ignore", FutureWarning)
            if settings.address is not None:
                if settings.address.startswith("ray://"):
                    raise InvalidInput(
                        f"address {settings.address!r}: Ray Client is not supported; start sharpbench on a "
                        "node of the cluster with --address auto"
                    )
                try:
                    _knock(settings.address)
                    ray.init(address=settings.address, **common)
                except (OSError, ValueError, RuntimeError) as error:
                    raise InvalidInput(
                        f"no Ray cluster at {settings.address!r} ({_first_line(error)}); start one with "
                        "`ray start --head`, or leave --address away to have one for this launch"
                    ) from None
            else:
                folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
                cores = settings.workers * threads if settings.workers else max(available_cores(), threads)
                with thread_environment(threads):
                    ray.init(
                        address="local",
                        num_cpus=cores,
                        num_gpus=0 if settings.device == "cpu" else None,
                        include_dashboard=False,
                        object_store_memory=STORE_BYTES,
                        _temp_dir=folder,
                        **common,
                    )
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError):  # not the main thread: then Ray set none either
                signal.signal(number, handler)
        resources = ray.cluster_resources()
        if settings.per_gpu < 1:
            raise must_be("per_gpu", ">= 1", settings.per_gpu)
        if settings.device == "cuda" and not resources.get("GPU"):
            raise InvalidInput("device 'cuda': the Ray cluster has no GPU; choose 'cpu' or 'auto'")
        nodes = sum(node["Alive"] for node in ray.nodes())
        settings.say(f"Ray {ray.__version__}: {resources.get('CPU', 0):g} CPUs on {nodes} node(s)")
        yield bool(resources.get("GPU"))
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _knock(address: str) -> None:
    """Raise at once where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _search_path() -> list[str]:
    """Where this process finds modules: a run may name one (``MODULE:CLASS``) that lies beside the suite."""
    return [str(Path(entry).resolve()) for entry in sys.path]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
