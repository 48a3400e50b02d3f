"""One attempt at one run, in whatever process: claim, clean, execute, and keep the error of a failure."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import Interrupted, SharpbenchError
from ...files import write_text
from ..store import ERROR_LOG, claimed, clean, last_line, read_result
from . import Job, Outcome, Settings

OUTPUT = "output.log"


def attempt(job: Job, settings: Settings, capture: bool = False) -> Outcome | None:
    """Carry out ``job``; None when another process is at work in its directory.

    A run that has ended meanwhile, or failed (``error.log``), is not repeated. Whatever an earlier attempt
    left half-written is removed first. An exception becomes ``error.log`` and a failed outcome; so does a
    directory that can't be written, as far as it can. A run that was asked to stop is ``interrupted``, and
    keeps its checkpoint.

    Args:
        job: the run.
        settings: see :class:`~sharpbench.bench.launch.Settings`.
        capture: send what the run prints to a file in its directory (kept only if it fails).
    """
    try:
        return _attempt(job, settings, capture)
    except OSError as error:  # the disk is full, or gone, or can only be read
        reason = f"{job.directory} can't be written: {error.strerror or error}"
        return Outcome(job.run_id, "failed", reason)


def _attempt(job: Job, settings: Settings, capture: bool) -> Outcome | None:
    with claimed(job.directory) as mine:
        if not mine:
            return None
        ended = read_result(job.directory, job.run_id)
        if ended is not None:
            return Outcome(job.run_id, ended["status"], str(ended.get("reason") or ""), here=False)
        if (job.directory / ERROR_LOG).exists():
            return Outcome(job.run_id, "failed", last_line(job.directory / ERROR_LOG), here=False)
        clean(job.directory)
        try:
            with output_to(job.directory / OUTPUT) if capture else contextlib.nullcontext():
                _execute(job, settings)
        except Interrupted as stop:  # not an end: the checkpoint stays, and there is no error to keep
            return Outcome(job.run_id, "interrupted", str(stop))
        except (Exception, SystemExit) as error:  # one broken run must not end the others
            return record_failure(job, _account(error))
        result = read_result(job.directory, job.run_id)
        if result is None:
            return record_failure(job, "the run returned, but left no valid result.json")
        return Outcome(job.run_id, result["status"], str(result.get("reason") or ""))


def record_failure(job: Job, account: str, attempts: int = 1) -> Outcome:
    """Write ``error.log`` (the account, and what the run printed), and give the outcome."""
    printed = ""
    with contextlib.suppress(OSError):
        printed = (job.directory / OUTPUT).read_text(encoding="utf-8", errors="replace")
        (job.directory / OUTPUT).unlink()
    log = f"{account.rstrip()}\n"
    if printed.strip():
        # Last lines last: the account is what `sharpbench status` shows.
        log = f"What the run printed:\n{printed.rstrip()}\n\n{log}"
    # With a full disk the outcome is all there is.
    with contextlib.suppress(OSError):
        write_text(job.directory / ERROR_LOG, log)
    return Outcome(job.run_id, "failed", log.rstrip().rpartition("\n")[2].strip(), attempts)


def _execute(job: Job, settings: Settings) -> Any:
    module, _, name = settings.execute.partition(":")
    function = getattr(importlib.import_module(module), name)
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    if torch is not None:
        # A worker serves runs with different thread counts, one after the other.
        torch.set_num_threads(job.spec.task.threads)
    try:
        return function(job.spec, job.directory, settings.listener, settings.device)
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def _account(error: BaseException) -> str:
    """The traceback; its last line is the error in one line."""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, SharpbenchError):
        # The message alone is for people; the qualified class name in front of it is noise.
        return f"{text}\n{' '.join(str(error).split())}"
    return text


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send file descriptors 1 and 2 to ``path`` (native code's output too); remove it if all went well."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
        path.unlink(missing_ok=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, target):
            os.close(descriptor)
