"""What a check is, and what it finds."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas
import torch

if TYPE_CHECKING:
    from .subject import Subject

Status = Literal["pass", "fail", "skip"]


class Defect(Exception):
    """Raised by a check: the optimizer breaks the promise; the message says what was seen."""


class NotApplicable(Exception):
    """Raised by a check: the promise does not concern this optimizer; the message says why."""


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        check: the name of the check.
        status: ``"pass"``, ``"fail"`` or ``"skip"``.
        detail: what was seen, or why the check does not apply.
        cause: the usual cause of this failure; empty unless the check failed.
    """

    check: str
    status: Status
    detail: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Check:
    """A promise that every optimizer must keep.

    Attributes:
        name: as in the table.
        cause: the usual cause of its failure.
        run: raises Defect or NotApplicable; returns what it saw, for the table, or nothing.
        processes: whether it starts processes of its own (left out of a quick run).
    """

    name: str
    cause: str
    run: Callable[[Subject], str | None]
    processes: bool = False

    @property
    def asserts(self) -> str:
        """What is promised, in one paragraph."""
        return inspect.getdoc(self.run) or ""

    def __call__(self, subject: Subject) -> Finding:
        """The finding for ``subject``; whatever goes wrong inside is a failure, never a crash."""
        with seeded_streams():
            try:
                return Finding(self.name, "pass", self.run(subject) or "")
            except NotApplicable as reason:
                return Finding(self.name, "skip", str(reason))
            except Defect as defect:
                return Finding(self.name, "fail", str(defect), self.cause)
            except Exception as error:
                return Finding(self.name, "fail", describe(error), self.cause)


def promise(
    name: str, cause: str, processes: bool = False
) -> Callable[[Callable[[Subject], str | None]], Check]:
    """Turns a function of a subject into a check; its docstring says what is promised."""

    def register(run: Callable[[Subject], str | None]) -> Check:
        return Check(name, cause, run, processes)

    return register


@contextmanager
def seeded_streams() -> Iterator[None]:
    """The global random streams start from a fixed seed in the block, and stand where they stood after it."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def describe(error: BaseException) -> str:
    """An exception in one short line.

    >>> describe(KeyError("s"))
    "raised KeyError: 's'"
    """
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return f"raised {type(error).__name__}" + (f": {text[:200]}" if text else "")


@dataclass(frozen=True)
class Conformance:
    """What the checks found about one optimizer.

    Attributes:
        target: what was checked.
        findings: one per check, in the order of the suite.
        form: how its steps were made: ``"closure"`` (the contract), ``"gradient first"``, ``"pair"`` or
            ``"two steps"`` (see ``stepping.take_step``).

    Example:
        >>> result = Conformance("mine", (Finding("restored", "pass"), Finding("counted", "skip")))
        >>> result.passed, result.frame.columns.tolist()
        (True, ['check', 'status', 'detail', 'usual_cause'])
    """

    target: str
    findings: tuple[Finding, ...]
    form: str = "closure"

    @property
    def passed(self) -> bool:
        """No check failed (one that does not apply is no failure)."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings with status ``"fail"``."""
        return tuple(finding for finding in self.findings if finding.status == "fail")

    @property
    def frame(self) -> pandas.DataFrame:
        """Columns ``check``, ``status`` (pass, fail, skip), ``detail``, ``usual_cause``; one row a check."""
        columns = ["check", "status", "detail", "usual_cause"]
        rows = [(f.check, f.status, f.detail, f.cause) for f in self.findings]
        return pandas.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        counts = {s: sum(f.status == s for f in self.findings) for s in ("pass", "fail", "skip")}
        lines = [f"{self.target}: {counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped"]
        lines += [f"  {f.check}: {f.detail} (usual cause: {f.cause})" for f in self.failures]
        return "\n".join(lines)
