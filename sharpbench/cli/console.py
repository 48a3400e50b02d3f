"""Where and how commands print."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Reports promise tables of at most about 110 columns; a pipe has no width of its own.
WIDTH_OF_A_PIPE = 120


def console(stderr: bool = False) -> Console:
    """A console on stdout or stderr, wide enough for the tables when it isn't a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=WIDTH_OF_A_PIPE if piped else None)


def simple_table(header: list[str], rows: list[list[str]]) -> Table:
    """A table of text; nothing in it is taken for markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for place, name in enumerate(header):
        numeric = bool(rows) and all(row[place].replace(".", "", 1).lstrip("-").isdigit() for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
