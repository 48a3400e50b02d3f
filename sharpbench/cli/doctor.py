"""The command that looks for what is wrong, here and in an output directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    directory: Annotated[
        Path | None, typer.Argument(help="An output directory to look through.", show_default=False)
    ] = None,
) -> None:
    """Check this environment, and every file of an output directory; nothing is changed.

    Exit codes: 0 nothing is wrong, 1 something is (lines that begin with WRONG), 2 bad input.
    """
    from ..bench.diagnosis import diagnose
    from ..bench.environment import environment
    from .work import import_from_here

    import_from_here()
    found = [] if directory is None else diagnose(directory)
    findings = [*environment(directory or Path("runs")), *found]
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}[finding.level]
        typer.echo(f"{mark}  {finding.subject:<{width}}  {finding.text}")
    wrong = sum(finding.level == "wrong" for finding in findings)
    if wrong:
        typer.echo(f"{wrong} wrong", err=True)
        raise typer.Exit(1)
