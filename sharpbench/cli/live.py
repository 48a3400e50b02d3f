"""What people see while runs go on: a live board on a terminal, one line a finished run elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..bench.drive import estimated_cost
from ..bench.launch import Outcome
from ..bench.plan import Plan, PlannedRun
from ..bench.progress import Progress
from .console import console

MARKS = {"done": "done    ", "diverged": "DIVERGED", "failed": "FAILED  ", "interrupted": "stopped "}
STYLES = {"done": "green", "diverged": "yellow", "failed": "bold red", "interrupted": "yellow"}


class Tally:
    """Counts, the runs in progress, and the time that is left."""

    def __init__(self) -> None:
        self.runs: dict[str, PlannedRun] = {}
        self.running: dict[str, Progress] = {}
        self.counts = dict.fromkeys(MARKS, 0)
        self.finished_before = 0
        self._began = time.monotonic()
        self._started: dict[str, float] = {}
        self._spent: dict[tuple[str, str], tuple[float, float]] = {}
        self._first: dict[str, tuple[int, float]] = {}  # epoch and time of a run's first report
        self._heard: dict[str, float] = {}  # when a run reported its present epoch
        self._waiting: dict[str, PlannedRun] = {}

    def begin(self, todo: Sequence[PlannedRun], finished: int) -> None:
        self.runs = {run.run_id: run for run in todo}
        self._waiting = dict(self.runs)
        self.finished_before = finished
        self._began = time.monotonic()

    def progress(self, message: Progress) -> None:
        before = self.running.get(message.run_id)
        self.running[message.run_id] = message
        if before is None or message.epoch != before.epoch:
            self._heard[message.run_id] = time.monotonic()
        if message.epoch == 0:
            # The first message, and again when a run is tried anew.
            self._started[message.run_id] = time.monotonic()
            self._first.pop(message.run_id, None)
        else:
            self._first.setdefault(message.run_id, (message.epoch, time.monotonic()))
        self._started.setdefault(message.run_id, time.monotonic())

    def speed(self, message: Progress) -> str:
        """Epochs a second since the run's first epoch was reported (what came before was start-up, or a
        checkpoint's); empty until there is a second one.
        """
        epoch, when = self._first.get(message.run_id, (0, 0.0))
        seconds = self._heard.get(message.run_id, when) - when
        if not epoch or seconds <= 0 or message.epoch <= epoch:
            return ""
        rate = (message.epoch - epoch) / seconds
        return f"{rate:.1f} epochs/s" if rate >= 1 else f"{1 / rate:.1f} s/epoch"

    def ended(self, outcome: Outcome) -> str:
        """Note the outcome, and say what is known of it: ``2.1 s, test accuracy 91.2 %``."""
        self.counts[outcome.status] += 1
        last = self.running.pop(outcome.run_id, None)
        run = self._waiting.pop(outcome.run_id, None)
        started = self._started.pop(outcome.run_id, None)
        if run is None or started is None:
            return ""
        if not outcome.here:
            return "by another process"
        seconds = time.monotonic() - started
        if outcome.status == "done":
            # Cost per network: an epoch of one may take ten times as long as an epoch of another.
            cost, before = self._spent.get(_network(run), (0.0, 0.0))
            self._spent[_network(run)] = (cost + estimated_cost(run.spec), before + seconds)
        if outcome.status == "done" and last is not None and last.accuracy is not None:
            return f"{seconds:.1f} s, test accuracy {100 * last.accuracy:.1f} %"
        return f"{seconds:.1f} s"

    @property
    def done(self) -> int:
        return sum(count for state, count in self.counts.items() if state != "interrupted")

    def remaining_seconds(self) -> float | None:
        """From what finished runs of the same network took; None before the first has finished."""
        if not self._spent:
            return None
        cost, seconds = (sum(column) for column in zip(*self._spent.values(), strict=True))
        overall = seconds / cost
        work = 0.0
        for run_id, run in list(self._waiting.items()):
            known = self._spent.get(_network(run))
            rate = known[1] / known[0] if known else overall
            message = self.running.get(run_id)
            share = message.epoch / message.epochs if message else 0.0
            work += estimated_cost(run.spec) * rate * (1.0 - share)
        return work / max(1, len(self.running))


class PlainWatch:
    """One line a finished run; or, for --quiet, failures only."""

    def __init__(self, failures_only: bool = False) -> None:
        self._tally = Tally()
        self._failures_only = failures_only

    def begin(self, todo: Sequence[PlannedRun], finished: int) -> None:
        self._tally.begin(todo, finished)
        if not self._failures_only:
            typer.echo(f"{len(todo)} runs to do, {finished} finished before")

    def progress(self, message: Progress) -> None:
        self._tally.progress(message)

    def say(self, line: str) -> None:
        if not self._failures_only:
            typer.echo(line)

    def ended(self, outcome: Outcome) -> None:
        known = self._tally.ended(outcome)
        line = ended_line(self._tally, outcome, known)
        if outcome.status == "failed":
            typer.echo(line, err=True)
        elif not self._failures_only:
            typer.echo(line)


class Board:
    """The live display: a bar for the whole and one for each run in progress; failures are named above."""

    def __init__(self, screen: Console) -> None:
        self._tally = Tally()
        self._screen = screen

    def begin(self, todo: Sequence[PlannedRun], finished: int) -> None:
        self._tally.begin(todo, finished)

    def progress(self, message: Progress) -> None:
        self._tally.progress(message)

    def say(self, line: str) -> None:
        self._screen.print(line, markup=False, highlight=False)

    def ended(self, outcome: Outcome) -> None:
        known = self._tally.ended(outcome)
        if outcome.status != "done":
            line = ended_line(self._tally, outcome, known)
            self._screen.print(f"[{STYLES[outcome.status]}]{escape(line)}[/]", highlight=False)

    def __rich__(self) -> RenderableType:
        tally = self._tally
        total = len(tally.runs)
        remaining = tally.remaining_seconds()
        overall = Table.grid(padding=(0, 2))
        counts = [f"{tally.done}/{total} runs"]
        counts += [
            f"{tally.counts[state]} {state}" for state in ("failed", "diverged") if tally.counts[state]
        ]
        if tally.finished_before:
            counts.append(f"{tally.finished_before} finished before")
        time_left = f"{clock(remaining)} left" if remaining is not None and tally.done < total else ""
        bar = ProgressBar(total=max(1, total), completed=tally.done, width=32)
        overall.add_row(bar, Text(", ".join(counts)), Text(time_left))
        jobs = Table.grid(padding=(0, 2))
        for run_id, message in list(tally.running.items()):
            jobs.add_row(
                Text("  " + tally.runs[run_id].title, no_wrap=True, overflow="ellipsis"),
                *_cells(message),
                Text(tally.speed(message), style="dim"),
            )
        return Group(jobs, overall)


@contextlib.contextmanager
def live_watch(plan: Plan) -> Iterator[PlainWatch | Board]:
    """A board on a terminal, plain lines elsewhere."""
    screen = console()
    screen.print(plan.title, markup=False, highlight=False)
    if not sys.stdout.isatty():
        yield PlainWatch()
        return
    board = Board(screen)
    # Live asks the board anew (``__rich__``) at each refresh, and prints what is said meanwhile above it.
    with Live(board, console=screen, refresh_per_second=4, transient=True):
        yield board


def ended_line(tally: Tally, outcome: Outcome, known: str) -> str:
    """``[ 3/36] done      sam · label_noise=0.5 · seed 1 (2.1 s)``, with the reason where there is one."""
    total = len(tally.runs)
    parts = [
        f"[{tally.done:>{len(str(total))}}/{total}]",
        MARKS[outcome.status],
        tally.runs[outcome.run_id].title,
    ]
    if known:
        parts.append(f"({known})")
    line = " ".join(parts)
    return f"{line}: {outcome.reason}" if outcome.reason else line


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(75), clock(7265)
    ('1:15', '2:01:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _network(run: PlannedRun) -> tuple[str, str]:
    return run.spec.task.dataset, run.spec.task.model


def _cells(message: Progress) -> list[RenderableType]:
    bar = ProgressBar(total=max(1, message.epochs), completed=message.epoch, width=16)
    if message.epoch == 0:
        return [bar, Text("starting", style="dim")]
    stage = f"epoch {message.epoch}/{message.epochs}" if message.stage == "training" else "measuring"
    loss = f"loss {message.loss:.4f}" if message.loss is not None else ""
    accuracy = f"{100 * message.accuracy:.1f} %" if message.accuracy is not None else ""
    return [bar, Text(stage), Text(loss), Text(accuracy)]
