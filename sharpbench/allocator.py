"""Memory on a CPU: what tensors free is kept, and a better allocator is used where there is one."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from functools import cache

# <malloc.h> of glibc
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MEBIBYTE = 2**20


def keep_freed_memory() -> bool:
    """Stop glibc from returning freed memory; for processes whose work is to train or to measure.

    A training step frees and takes the same activations again and again. By default glibc gives large
    pieces back, and the kernel clears every page anew when they are taken again: thousands of page faults
    a step. On the narrow ResNet-18 this made the second gradient of a SAM step a tenth dearer than the first.
    The process keeps its peak memory until it ends. Numbers are not touched.

    Returns:
        whether it was done; False without glibc.

    Example:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    settings = {
        # 32 MiB is the most glibc takes; larger pieces are still mapped one by one.
        _M_MMAP_THRESHOLD: 32 * _MEBIBYTE,
        _M_TRIM_THRESHOLD: 2**31 - 1,
        _M_TOP_PAD: 64 * _MEBIBYTE,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())


# In this order (benchmarks/allocator.py measures what they save).
ALLOCATORS = ("tcmalloc_minimal", "tcmalloc", "jemalloc")


@cache
def installed_allocator() -> str | None:
    """File name of tcmalloc or jemalloc as the dynamic linker finds it, or None.

    glibc hands out the piece of memory that was freed longest ago, which is no longer in the processor's
    cache; these two hand out the one freed last.
    """
    if not sys.platform.startswith("linux"):
        return None
    return next((found for name in ALLOCATORS if (found := ctypes.util.find_library(name))), None)


def preload() -> str | None:
    """What a worker's ``LD_PRELOAD`` should be so that it uses a better allocator; None: leave it alone.

    ``SHARPBENCH_ALLOCATOR=system`` says to leave it alone; so does an ``LD_PRELOAD`` of the user's own.
    Numbers do not depend on it.
    """
    if "LD_PRELOAD" in os.environ or os.environ.get("SHARPBENCH_ALLOCATOR") == "system":
        return None
    return installed_allocator()


def allocator_in_use() -> str:
    """The allocator of this process, by name: ``"tcmalloc"``, ``"jemalloc"`` or ``"system"``.

    >>> allocator_in_use() in ("tcmalloc", "jemalloc", "system")
    True
    """
    loaded = os.environ.get("LD_PRELOAD", "")
    return next((name for name in ("tcmalloc", "jemalloc") if name in loaded), "system")
