"""Data parallelism: two processes with different data must hold the same weights."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .finding import Check, Defect, Finding, NotApplicable, promise
from .rank import RANKS, READY, STEPS, answers_of
from .subject import Subject

# Importing torch takes seconds on a busy machine; the steps of one subject take a tenth of a second.
START_SECONDS, SUBJECT_SECONDS = 90.0, 3.0
# A rank that waits for an all-reduce the other never starts gives up after this.
COLLECTIVE_SECONDS = 20.0


@dataclass
class Answers:
    """Target → what went wrong, empty where the ranks agree; one that hung has no entry."""

    found: dict[str, str] = field(default_factory=dict)
    impossible: str = ""


@promise(
    "data-parallel ranks agree",
    "decisions or weights from what only one rank knows: its loss values, its examples, its random numbers "
    "(reduce or broadcast them, or draw from a generator with the same seed on all ranks)",
    processes=True,
)
def ranks_agree(subject: Subject) -> str:
    """Two gloo processes under DistributedDataParallel, different data, equal weights after every step."""
    return _judge(subject, exchange([subject]))


def findings(subjects: Sequence[Subject]) -> Mapping[str, Finding]:
    """The finding of this check for many optimizers, by target, with one pair of processes for all."""
    answers = exchange(subjects)
    shared = Check(ranks_agree.name, ranks_agree.cause, lambda subject: _judge(subject, answers), True)
    return {subject.target: shared(subject) for subject in subjects}


def _judge(subject: Subject, answers: Answers) -> str:
    if not can_travel(subject):
        raise NotApplicable("can't be sent to other processes; name it MODULE:CLASS, in a module of its own")
    if subject.target not in answers.found:
        if answers.impossible:
            raise NotApplicable(f"two gloo processes can't be started here: {answers.impossible}")
        raise Defect("no answer in time: the ranks wait for each other")
    if answers.found[subject.target]:
        raise Defect(answers.found[subject.target])
    return f"{RANKS} gloo processes, {STEPS} steps"


def can_travel(subject: Subject) -> bool:
    """Whether another process can import the class and read the parameters."""
    if subject.factory.__module__ == "__main__":
        return False
    try:
        pickle.dumps(subject)
    except Exception:
        return False
    return True


def exchange(subjects: Sequence[Subject]) -> Answers:
    """Run the subjects on two ranks. A pair of processes serves until one fails, then a fresh one goes on."""
    waiting = [subject for subject in subjects if can_travel(subject)]
    answers = Answers()
    while waiting and not answers.impossible:
        fresh = _pair(waiting)
        answers.found.update(fresh.found)
        answers.impossible = fresh.impossible
        failed = any(fresh.found.values())
        waiting = waiting[len(fresh.found) + (0 if failed else 1) :]
    return answers


def _pair(subjects: Sequence[Subject]) -> Answers:
    """The answers of one pair of processes, up to the first failure or the end of the time."""
    with tempfile.TemporaryDirectory(prefix="sharpbench-ranks-") as name:
        folder = Path(name)
        (folder / "subjects").write_bytes(pickle.dumps(list(subjects)))  # read by our own children only
        children = [_start(rank, folder) for rank in range(RANKS)]
        deadline = time.monotonic() + START_SECONDS + SUBJECT_SECONDS * len(subjects)
        try:
            for child in children:
                child.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
        by_rank = [answers_of(folder, rank) for rank in range(RANKS)]
        answers = Answers({target: _both(by_rank, target) for found in by_rank for target in found})
        if not answers.found and not all((folder / f"{READY}-{rank}").exists() for rank in range(RANKS)):
            last = (folder / "log-0").read_text(errors="replace").strip().splitlines()[-1:]
            answers.impossible = (last or ["they ended without a word"])[0][:200]
        return answers


def _start(rank: int, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    if sys.platform.startswith("linux"):
        # Both ranks are here; the machine's name need not resolve.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # Not `-m`: the module is imported by the package, and would then exist twice.
    code = "from sharpbench.optim.conformance.rank import main; main()"
    with (folder / f"log-{rank}").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(folder), str(COLLECTIVE_SECONDS)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _both(by_rank: Sequence[Mapping[str, str]], target: str) -> str:
    said = [f"rank {rank}: {found[target]}" for rank, found in enumerate(by_rank) if found.get(target)]
    same = {found.get(target, "") for found in by_rank}
    return same.pop() if len(same) == 1 else "; ".join(said)
