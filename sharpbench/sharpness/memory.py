"""Memory: how much is free, and going on in smaller pieces when it runs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from .notices import SmallerBatches
from .subject import warn_once

if TYPE_CHECKING:
    from .surface import LossSurface

Result = TypeVar("Result")


def within_memory(surface: LossSurface, attempt: Callable[[], Result]) -> Result:
    """Try; where memory runs out keep fewer graphs, then smaller batches, with one warning, and try again.

    Raises:
        torch.OutOfMemoryError: one example at a time is still too much, or the loss of a batch is not made
            of the losses of its parts.
    """
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            problem = str(error).partition("\n")[0]
        # Outside the handler: the traceback would hold what is to be freed.
        if not surface.shrink():
            reason = f"; the batches can't be cut: {surface.indivisible}" if surface.indivisible else ""
            raise torch.OutOfMemoryError(problem + reason)
        warn_once(surface, SmallerBatches, f"memory ran out ({problem}); going on in smaller pieces")


def free_memory(device: torch.device) -> int:
    """Bytes free on the device; 2 GiB where the system does not say.

    >>> free_memory(torch.device("cpu")) > 0
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2 << 30


def out_of_memory(error: RuntimeError) -> bool:
    """Whether this error says that an allocation failed."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text
