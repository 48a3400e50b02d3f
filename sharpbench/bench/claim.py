"""Who is at work in a run directory: an operating system's lock, and a heartbeat for where that isn't enough.

The kernel drops a lock with the process that held it, so on one machine a killed run is never stuck. Over
a network file system that is not all: the lock of a machine that died may stay, and some mounts keep locks
to themselves, so that two machines hold "the" lock. Therefore the holder also keeps ``.owner`` (host,
process, a random token) beside ``.lock`` and touches it every ``HEARTBEAT_SECONDS``.

- The lock is free, but a live owner of *another* host is there: the mount doesn't share locks; it is held.
- The lock is held, but its owner has been silent for ``STALE_BEATS`` beats: the machine died; taken over.

Silence is judged by the file's modification time against that of a file made now in the same place, and
by watching it stand still on this process's monotonic clock: no clock that jumps, here or there, takes a
claim away from somebody who works.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..files import read_bytes

# Kept inside the run directory when everything else is cleaned: removing a lock file that another
# process waits for would let two processes hold "the" lock.
LOCK = ".lock"
OWNER = ".owner"
HEARTBEAT_SECONDS = 10.0
STALE_BEATS = 10


@dataclass(frozen=True)
class Owner:
    """The content of ``.owner``, and when it was touched last (by the file system's clock)."""

    host: str
    process: int
    token: str
    touched: float

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == platform.node()

    @property
    def alive(self) -> bool:
        """Whether it is a process of this machine that still runs."""
        if not self.here or self.process < 1:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is somebody else's
            return True
        return True


@contextmanager
def claimed(directory: Path) -> Iterator[bool]:
    """Hold a run directory: yields False when another process holds it.

    Raises:
        OSError: the directory can't be made or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, claimed(Path(folder)) as mine:
    ...     with claimed(Path(folder)) as twice:
    ...         print(mine, twice)
    True False
    """
    directory.mkdir(parents=True, exist_ok=True)
    held = _acquire(directory)
    if held is None:
        yield False
        return
    lock, token = held
    _heart.add(directory / OWNER)
    try:
        yield True
    finally:
        _heart.remove(directory / OWNER)
        with contextlib.suppress(OSError):
            owner = read_owner(directory)
            if owner is not None and owner.token == token:
                (directory / OWNER).unlink()
        lock.release()


def is_claimed(directory: Path) -> bool:
    """Whether some process is at work in this run directory; writes nothing."""
    if not (directory / LOCK).exists():
        return False
    owner = read_owner(directory)
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a directory that can only be read
        return owner is not None and (owner.alive or not owner.here)
    lock.release()
    return (
        owner is not None and not owner.here and time.time() - owner.touched < HEARTBEAT_SECONDS * STALE_BEATS
    )


def read_owner(directory: Path) -> Owner | None:
    """Who holds, or held, the directory; None if nobody said so."""
    path = directory / OWNER
    try:
        touched = path.stat().st_mtime
        content = json.loads(read_bytes(path))
        return Owner(str(content["host"]), int(content["process"]), str(content["token"]), touched)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _acquire(directory: Path) -> tuple[FileLock, str] | None:
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return _take_over(directory)
    try:
        owner = read_owner(directory)
        # An owner of this machine would hold the lock that we have just got, so it is dead.
        if owner is None or owner.here or _silent(directory, owner.token, owner.touched):
            return lock, _sign(directory)
    except BaseException:
        lock.release()
        raise
    lock.release()
    return None


def _take_over(directory: Path) -> tuple[FileLock, str] | None:
    """The claim of a holder that is dead although its lock is not; None if there is life in it."""
    owner = read_owner(directory)
    if owner is not None and owner.alive:
        return None
    try:
        touched = owner.touched if owner else (directory / LOCK).stat().st_mtime
    except OSError:
        return None
    token = owner.token if owner else ""
    if not _silent(directory, token, touched):
        return None
    # Only one may: whoever makes this file. It goes after the new owner has signed, so that somebody who
    # comes late with the same judgement finds either the file or another token.
    mark = directory / f".recover-{token[:32] if token.isalnum() else 'unsigned'}"
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        if _silent(directory, mark.name, mark.stat().st_mtime):
            mark.unlink(missing_ok=True)
        return None
    try:
        now = read_owner(directory)
        if (now.token if now else "") != token:
            return None
        (directory / LOCK).unlink(missing_ok=True)
        lock = FileLock(directory / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock, _sign(directory)
    finally:
        mark.unlink(missing_ok=True)


# Heartbeats this process has seen: (directory, token) -> (touched, since when it stands still).
_watched: dict[tuple[str, str], tuple[float, float]] = {}


def _silent(directory: Path, token: str, touched: float) -> bool:
    """Whether the heartbeat has stopped: old by the file system's clock, and still while we watched."""
    before = _watched.get((str(directory), token))
    now = time.monotonic()
    if before is None or before[0] != touched:
        _watched[str(directory), token] = (touched, now)
        return False
    old = _age(directory, touched) > STALE_BEATS * HEARTBEAT_SECONDS
    # A clock that jumped forward makes everything look old: two beats must be missed before our eyes. One
    # that jumped back makes nothing look old: then watching alone decides.
    return now - before[1] > (2 if old else STALE_BEATS) * HEARTBEAT_SECONDS


def _age(directory: Path, touched: float) -> float:
    """Seconds since ``touched`` by the clock that stamps files here."""
    probe = directory / f".clock.{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime - touched
    finally:
        probe.unlink(missing_ok=True)


def _sign(directory: Path) -> str:
    token = uuid.uuid4().hex
    content = {"host": platform.node(), "process": os.getpid(), "token": token}
    (directory / OWNER).write_text(json.dumps(content), encoding="utf-8")
    return token


class _Heart:
    """One thread of this process touches the files of all its claims; it lives as long as there are any.

    A thread for each claim would cost a short run more than everything else about it.
    """

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._paths: set[Path] = set()
        self._beating = False

    def add(self, path: Path) -> None:
        with self._changed:
            self._paths.add(path)
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def remove(self, path: Path) -> None:
        with self._changed:
            self._paths.discard(path)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            with self._changed:
                if not self._paths:
                    self._beating = False
                    return
                for path in self._paths:
                    with contextlib.suppress(OSError):  # a full or vanished disk is the run's to notice
                        os.utime(path)


_heart = _Heart()
