"""The command that says what is wrong with an optimizer: check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ..optim.conformance import Conformance, Finding

MARKS = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red"), "skip": ("skip", "dim")}


def check(
    target: Annotated[
        str | None,
        typer.Argument(help="A registered name, or MODULE:CLASS for your own.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every registered optimizer.")] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyper-parameter; may be repeated."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Leave out the data-parallel check (two processes).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Check what an optimizer promises: exact restore, buffers, randomness, state, data parallelism, ...

    Prints every check, what it saw, and the usual cause of each failure.
    Exit codes: 0 all passed, 1 some failed, 2 bad input.
    """
    from ..errors import InvalidInput
    from .work import import_from_here

    if (target is None) is not everything:
        raise InvalidInput("give one optimizer (a registered name or MODULE:CLASS), or --all")
    parameters = dict(_setting(text) for text in setting or [])
    if everything and parameters:
        raise InvalidInput("--set goes with one optimizer, not with --all")
    import_from_here()
    from ..optim.conformance import check as check_one
    from ..optim.conformance import check_all

    # Shown on a terminal only, and not among the results.
    with console(stderr=True).status("checking ...") as status:
        if target is not None:
            results = [check_one(target, parameters, quick=quick)]
        else:
            results = []
            for result in check_all(quick=quick):
                results.append(result)
                status.update(f"checked {len(results)}: {result.target}")
    if as_json:
        typer.echo(json.dumps([_plain(result) for result in results], indent=2, ensure_ascii=False))
    else:
        _show(results)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _setting(text: str) -> tuple[str, Any]:
    """``rho=0.1`` as a name and a number; what isn't JSON is a string."""
    from ..errors import InvalidInput

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidInput(f"--set must be NAME=VALUE, but got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _plain(result: Conformance) -> dict[str, Any]:
    return {
        "target": result.target,
        "passed": result.passed,
        "form": result.form,
        "findings": result.frame.to_dict("records"),
    }


def _show(results: Sequence[Conformance]) -> None:
    screen = console()
    if len(results) == 1:
        screen.print(_one(results[0]))
    else:
        screen.print(_overview(results))
        for result in results:
            if not result.passed:
                screen.print(_one(result))
    failed = sum(not result.passed for result in results)
    if len(results) == 1:
        count = len(results[0].failures)
        typer.echo(f"{results[0].target}: {count} checks failed" if count else f"{results[0].target}: passed")
    else:
        typer.echo(f"{len(results)} optimizers, {failed} with failures")


def _one(result: Conformance) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=_title(result), title_justify="left")
    for name in ("check", "", "what was seen"):
        table.add_column(name, overflow="fold")
    for finding in result.findings:
        mark, style = MARKS[finding.status]
        table.add_row(Text(finding.check), Text(mark, style=style), _seen(finding))
    return table


def _seen(finding: Finding) -> Any:
    from rich.text import Text

    seen = Text(finding.detail)
    if finding.cause:
        seen.append(f"\nusual cause: {finding.cause}", style="yellow")
    return seen


def _title(result: Conformance) -> Any:
    from rich.text import Text

    driven = "" if result.form == "closure" else f" (driven as: {result.form})"
    return Text(result.target + driven)


def _overview(results: Sequence[Conformance]) -> Table:
    from .console import simple_table

    rows = []
    for result in results:
        counts = [sum(f.status == status for f in result.findings) for status in MARKS]
        failed = ", ".join(f.check for f in result.failures)
        rows.append([result.target, *map(str, counts), failed])
    return simple_table(["optimizer", "passed", "failed", "skipped", "failures"], rows)
