"""Carry out a plan: what is left of it, costliest first, by a launcher, into an output directory."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn, Protocol

from .. import __version__
from ..errors import InvalidInput
from ..optim.registry import OPTIMIZERS
from ..spec import RunSpec
from .launch import Job, Outcome, Settings, find_launcher
from .plan import Plan, PlannedRun
from .progress import Progress
from .replaced import replace_outdated
from .store import ERROR_LOG, RESULT, Store, claimed, examine, last_line, open_store, remove

# Whatever goes into a report is smaller, and is compared with its digest before a run counts as done;
# of larger files (weights), sizes have to do here.
TABLES_BYTES = 2**20
OtherVersion = Literal["refuse", "accept", "redo"]


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
    *,
    retry_failed: bool = False,
    other_version: OtherVersion = "refuse",
) -> list[Outcome]:
    """Finish the runs of ``plan`` in ``out``; runs that have ended before are left as they are.

    A run whose files don't agree with its result (cut off, missing, of another run) is run again, and so is
    one that another version of an optimizer's own source made (``MODULE:CLASS``): ``settings.notice`` is
    told, and the old result is put aside in ``OUT/replaced``. With ``other_version`` "accept" it stays.

    Args:
        plan: what is to be there in the end.
        out: the output directory.
        launcher: by name.
        settings: of the launcher.
        watch: told what happens.
        retry_failed: run again what failed before; otherwise it stays failed.
        other_version: what to do with results of another version of sharpbench while runs are left to do.

    Returns:
        one outcome for each run carried out now, in the order they ended, and for each that had failed
        before and is not retried (``here`` is False, ``attempts`` 0).

    Raises:
        InvalidInput: an unknown launcher, an ``out`` that belongs to something else, or results of another
            version and nobody said what is to become of them.
    """
    launch = find_launcher(launcher)
    settings = settings or Settings()
    store = open_store(out, plan)
    distinct = {run.run_id: run for run in plan.runs}.values()
    replace_outdated(store, distinct, settings, keep=other_version == "accept")
    left = _unfinished(store, distinct, other_version)
    failed = {run.run_id: store.directory(run.run_id) / ERROR_LOG for run in left}
    failed = {run_id: log for run_id, log in failed.items() if log.is_file()}
    if retry_failed:
        for run_id in failed:
            _forget(store, run_id, ERROR_LOG)
        failed = {}
    todo = [run for run in left if run.run_id not in failed]
    # The longest first: otherwise one long run, started last, keeps a single worker busy at the end.
    todo.sort(key=lambda run: -estimated_cost(run.spec))
    if watch is not None:
        watch.begin(todo, len(distinct) - len(left))
        settings = replace(settings, listener=watch.progress)
    outcomes = [
        Outcome(run_id, "failed", last_line(log), attempts=0, here=False) for run_id, log in failed.items()
    ]
    jobs = [Job(run.spec, store.directory(run.run_id)) for run in todo]
    with stopped_by_signals(), contextlib.closing(launch(jobs, settings)) as results:
        for outcome in results:
            outcomes.append(outcome)
            if watch is not None:
                watch.ended(outcome)
    return outcomes


def _unfinished(store: Store, runs: Collection[PlannedRun], other_version: OtherVersion) -> list[PlannedRun]:
    """The runs without a result to keep, in the order of the plan."""
    results = {}
    for run in runs:
        results[run.run_id], damage = examine(store.directory(run.run_id), run.run_id, TABLES_BYTES)
        if damage:
            _forget(store, run.run_id, RESULT)
    others = {
        run_id: str(result["sharpbench"])
        for run_id, result in results.items()
        if result is not None and result.get("sharpbench", __version__) != __version__
    }
    if others and other_version == "redo":
        for run_id in others:
            _forget(store, run_id, RESULT)
            results[run_id] = None
    left = [run for run in runs if results[run.run_id] is None]
    if others and left and other_version == "refuse":
        versions = ", ".join(sorted(set(others.values())))
        raise InvalidInput(
            f"{store.out} holds {len(others)} finished runs of sharpbench {versions}, and this is "
            f"{__version__}; --other-version accept keeps them beside the {len(left)} new ones (the report "
            "says so), --other-version redo runs them again"
        )
    return left


def _forget(store: Store, run_id: str, name: str) -> None:
    """Remove the file that says how a run ended, unless somebody is at work on that run."""
    try:
        with claimed(store.directory(run_id)) as mine:
            if mine:
                remove(store.directory(run_id) / name)
    except OSError as error:
        raise InvalidInput(f"{store.directory(run_id)} can't be written ({error.strerror})") from None


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
