"""The command that joins the output directories of several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    out: Annotated[Path, typer.Argument(help="Where everything goes: new, or an output directory.")],
    directories: Annotated[list[Path], typer.Argument(help="Output directories of the same suite.")],
    mixed_sources: Annotated[
        bool,
        typer.Option(
            "--mixed-sources",
            help="Also join results that different versions of your optimizer's source made.",
        ),
    ] = False,
) -> None:
    """Join output directories of one suite; every file is checked, and conflicting results are refused.

    Exit codes: 0 all taken, 1 some runs are damaged and were left out, 2 bad input.
    """
    from ..bench.merge import merge as join

    merged = join(out, directories, mixed_sources=mixed_sources)
    typer.echo(
        f"{out}: {len(merged.copied)} runs copied, {len(merged.same)} duplicates are the same, "
        f"{len(merged.failed)} failed, {len(merged.missing)} without a result"
    )
    for note in merged.notes:
        typer.echo(f"  note  {note}", err=True)
    for directory, damage in merged.skipped.items():
        typer.echo(f"  left out  {directory}: {damage}", err=True)
    if merged.skipped:
        raise typer.Exit(1)
