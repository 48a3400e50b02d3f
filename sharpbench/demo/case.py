"""What a demonstration is, and what it gives back."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InvalidInput


@dataclass(frozen=True)
class DemoResult:
    """The outcome of a demonstration.

    Attributes:
        table: one row per measured case, tidy; the same numbers lie in the output folder as CSV.
        figures: the PNG files that were written.
        text: what was found, for people, in plain text; it says where a published statement does not hold.
    """

    table: pd.DataFrame
    figures: list[Path]
    text: str


@dataclass(frozen=True)
class Demo:
    """A case study that runs by itself in seconds.

    ``run(folder)`` writes ``NAME.csv``, ``NAME.png`` and ``NAME.txt`` into ``folder`` (created if need be),
    each whole or not at all, and the same bytes every time on one machine.
    """

    name: str
    summary: str
    run: Callable[[Path], DemoResult]


def output_folder(folder: Path) -> Path:
    """``folder``, which then exists.

    Raises:
        InvalidInput: it is a file, or can't be created.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"can't create the output folder {folder}: {error.strerror}") from error
    return folder


def paragraph(text: str) -> str:
    """``text`` as one paragraph of lines of at most 100 characters; a number stays with its "%".

    >>> paragraph("one     two")
    'one two'
    """
    held = " ".join(text.split()).replace(" %", "\u00a0%")
    return textwrap.fill(held, 100, break_on_hyphens=False).replace("\u00a0", " ")
