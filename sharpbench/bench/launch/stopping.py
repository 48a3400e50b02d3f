"""Ctrl-C and SIGTERM while a run is carried out in this very process: a checkpoint first, then the end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ...training import interrupt
from . import Settings


class Stop:
    """Whether a signal came, and which."""

    def __init__(self) -> None:
        self.number: int | None = None

    def follow(self) -> None:
        """Do what the signal would have done: raise KeyboardInterrupt, or end the process."""
        if self.number is not None:
            signal.raise_signal(self.number)


@contextmanager
def checkpoint_first(settings: Settings) -> Iterator[Stop]:
    """In the block, a first SIGINT or SIGTERM asks the run for a checkpoint.

    A second one, or the end of the grace, does what the first would have done without this block. Signals
    that are ignored (``nohup``, background jobs of a shell) stay so. A no-op outside of the main thread.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    timer = None
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal timer
        if stop.number is not None:
            put_back()
            signal.raise_signal(number)
            return
        stop.number = number
        interrupt.request_stop()
        timer = threading.Timer(settings.grace_seconds, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
        settings.say("stopping: the run writes a checkpoint (once more stops at once)")

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        if timer is not None:
            timer.cancel()
        put_back()
        if stop.number is not None:
            interrupt.clear()
