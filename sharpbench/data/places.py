"""Where data sets live on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InvalidInput

VARIABLE = "SHARPBENCH_DATA"


def data_folder() -> Path:
    """``$SHARPBENCH_DATA``, or the platform's cache folder of the user."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("sharpbench"))


def megabytes(size: int) -> str:
    """Bytes for people.

    >>> megabytes(170_052_171), megabytes(34_393)
    ('170 MB', '0.03 MB')
    """
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e6:.2f} MB"


@contextmanager
def writing(folder: Path, size: int) -> Iterator[None]:
    """Turns a folder that can't be made or written, or a full disk, into one line that says what to do.

    Args:
        folder: where the block writes.
        size: bytes that the block needs there, for the message.

    Raises:
        InvalidInput: an OSError of the block.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(
            f"can't write to {folder} ({reason}); set {VARIABLE} to a folder that can be written and has "
            f"{megabytes(size)} free"
        ) from error
