"""What runs in Ray's processes: one run a task, and the mailbox of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...spec import RunSpec
from ...training import interrupt
from ..progress import Progress
from . import Job, Outcome, Settings
from .attempt import attempt

# Messages between two looks of the launcher; a run that ends says so by itself, so old ones may go.
MAIL_LIMIT = 10_000
# How long a message that overtook another waits for it: so many times so many seconds.
PATIENCE, PAUSE = 50, 0.02


class Mailbox:
    """An actor that keeps messages until they are fetched."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, int, Progress]] = []
        self._taken: dict[str, int] = {}
        self._something = asyncio.Event()

    async def put(self, sender: str, number: int, message: Progress) -> None:
        """Leave a message, the sender's so many-th; nobody waits for it to be read."""
        self._messages = [*self._messages[-MAIL_LIMIT:], (sender, number, message)]
        self._something.set()

    async def take(self) -> list[Progress]:
        """Everything since the last call; waits for the first."""
        await self._something.wait()
        # Ray gives an actor that takes several calls at once a sender's calls in any order.
        for _ in range(PATIENCE):
            if not self._overtaken():
                break
            await asyncio.sleep(PAUSE)
        messages, self._messages = self._messages, []
        self._something.clear()
        for sender, number, _ in messages:
            self._taken[sender] = max(self._taken.get(sender, 0), number + 1)
        return [message for _, _, message in sorted(messages, key=lambda numbered: numbered[1])]

    def _overtaken(self) -> bool:
        """Whether a message is here that a sender sent after one that is not."""
        here: dict[str, list[int]] = {}
        for sender, number, _ in self._messages:
            here.setdefault(sender, []).append(number)
        return any(
            max(numbers) - self._taken.get(sender, 0) >= len(numbers) for sender, numbers in here.items()
        )


def carry_out(
    spec: str, directory: str, settings: Settings, mailbox: Any, search_path: list[str]
) -> Outcome | None:
    """The task: one attempt at a run; None when another process is at work on it.

    Args:
        spec: the canonical spec.
        directory: absolute; the same on every node.
        settings: of the launch; this process adds its listener and its GPU.
        mailbox: the handle of the mailbox actor.
        search_path: where the launching process finds modules.
    """
    # After this process's own, so that a node's installation is not shadowed.
    sys.path.extend(entry for entry in search_path if entry not in sys.path)
    job = Job(RunSpec.model_validate_json(spec), Path(directory))

    sender, numbers = uuid.uuid4().hex, itertools.count()

    def tell(progress: Progress) -> None:
        with contextlib.suppress(Exception):  # a lost message is no reason to lose a run
            mailbox.put.remote(sender, next(numbers), progress)

    tell(Progress(job.run_id, "training", 0, job.spec.task.epochs))
    device = _own_gpu() if settings.device == "cuda" else settings.device
    interrupt.clear()
    # Ray cancels a task by what Ctrl-C does; the run is to write its checkpoint first.
    with interrupt.stop_on_signals(signal.SIGINT):
        return attempt(job, replace(settings, listener=tell, device=device), capture=True)


def _own_gpu() -> str:
    """The GPU that Ray has given to this task, as torch counts them."""
    import ray

    given = str(ray.get_gpu_ids()[0])
    visible = [
        entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()
    ]
    return f"cuda:{visible.index(given) if given in visible else given}"
