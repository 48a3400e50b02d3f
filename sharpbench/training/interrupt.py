"""Asking a training to stop: it writes a checkpoint at the next step and raises ``Interrupted``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


def request_stop() -> None:
    """Ask the training of this process to stop; safe in a signal handler."""
    _asked.set()


def requested() -> bool:
    """Whether a stop was asked for.

    >>> request_stop()
    >>> requested()
    True
    >>> clear()
    >>> requested()
    False
    """
    return _asked.is_set()


def clear() -> None:
    """Forget the request, so that this process may train again."""
    _asked.clear()


@contextmanager
def stop_on_signals(*signals: signal.Signals) -> Iterator[None]:
    """In the block, the given signals ask for a stop. A no-op outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    request_stop()
