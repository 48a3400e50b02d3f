"""Carry out a plan: what is left of it, costliest first, by a launcher, into an output directory."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

from ..optim.registry import OPTIMIZERS
from ..spec import RunSpec
from .launch import Job, Outcome, Settings, find_launcher
from .plan import Plan, PlannedRun
from .progress import Progress
from .store import open_store


class Watch(Protocol):
    """Somebody who looks on: the live display, or a test."""

    def begin(self, todo: Sequence[PlannedRun], finished: int) -> None:
        """Once, before the first run: what will be run, and how many runs had ended before."""

    def progress(self, message: Progress) -> None:
        """A message from a run that goes on."""

    def ended(self, outcome: Outcome) -> None:
        """A run has ended."""


def run_plan(
    plan: Plan,
    out: Path,
    launcher: str = "local",
    settings: Settings | None = None,
    watch: Watch | None = None,
) -> list[Outcome]:
    """Finish the runs of ``plan`` in ``out``; runs that have ended before are left as they are.

    Returns:
        one outcome for each run carried out now, in the order they ended.

    Raises:
        InvalidInput: an unknown launcher, or an ``out`` that belongs to something else.
    """
    launch = find_launcher(launcher)
    settings = settings or Settings()
    store = open_store(out, plan)
    distinct = {run.run_id: run for run in plan.runs}.values()
    todo = [run for run in distinct if store.result(run.run_id) is None]
    # The longest first: otherwise one long run, started last, keeps a single worker busy at the end.
    todo.sort(key=lambda run: -estimated_cost(run.spec))
    if watch is not None:
        watch.begin(todo, len(distinct) - len(todo))
        settings = replace(settings, listener=watch.progress)
    outcomes = []
    jobs = [Job(run.spec, store.directory(run.run_id)) for run in todo]
    with stopped_by_signals(), contextlib.closing(launch(jobs, settings)) as results:
        for outcome in results:
            outcomes.append(outcome)
            if watch is not None:
                watch.ended(outcome)
    return outcomes


def estimated_cost(spec: RunSpec) -> float:
    """Passes over the full training set, forward and backward: a guide for order and remaining time.

    >>> from ..spec import OptimizerSpec
    >>> estimated_cost(RunSpec(optimizer=OptimizerSpec(name="sam", label="sam")))
    120.0
    """
    return spec.task.epochs * spec.task.train_fraction * _evaluations(spec)


def _evaluations(spec: RunSpec) -> float:
    entry = OPTIMIZERS.get(spec.optimizer.name)
    if entry is None:
        return 2.0
    leading = re.match(r"\d+", entry.evaluations)
    if leading:
        # "1 + p": a second gradient now and then.
        return float(leading[0]) + (0.5 if entry.evaluations.startswith("1 +") else 0.0)
    # "n + 1 (antithetic 2n + 1)"
    chosen = {**entry.parameters, **spec.optimizer.parameters}
    samples = chosen.get("n_samples")
    count = float(samples) if isinstance(samples, int) else 1.0
    return (2.0 if chosen.get("sampling") == "antithetic" else 1.0) * count + 1.0


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: workers are stopped on the way out."""
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # handlers belong to the main thread
        yield
        return
    # nohup sets SIGHUP to "ignore", and that is to stay.
    signals = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _leave) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
