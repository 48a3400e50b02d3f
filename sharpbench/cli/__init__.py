"""The command line: parses, calls, prints. Heavy imports wait inside the commands, so --help is instant."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from ..errors import InvalidInput, SharpbenchError
from . import check, data, doctor, inspect, measuring, merge, single, timing, work

INTERRUPTED = 130  # what shells report for a program ended by Ctrl-C


class Commands(TyperGroup):
    """Turns what people can mend into one line on stderr; a traceback is for our own mistakes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SharpbenchError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # `sharpbench ... | head`: the command line library ends this quietly
            raise
        except OSError as error:  # a full disk, a place that can't be read or written
            where = f"{error.filename}: " if error.filename else ""
            typer.echo(f"error: {where}{error.strerror or error}", err=True)
            raise typer.Exit(InvalidInput.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("\ninterrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    name="sharpbench",
    help="Measure sharpness, and benchmark the optimizers that seek flat minima.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(work.run)
app.command()(single.train)
app.command()(inspect.status)
app.command()(work.report)
app.command()(inspect.validate)
app.command("list")(inspect.list_names)
app.command()(work.demo)
app.command()(check.check)
app.command()(measuring.measure)
app.command()(merge.merge)
app.command()(doctor.doctor)
app.command("time")(timing.time_suite)
app.add_typer(data.app)
app.command()(inspect.version)


def main() -> None:
    """The console entry point."""
    for stream in (sys.stdout, sys.stderr):
        _never_fail_on_a_character(stream)
    app(prog_name="sharpbench")


def _never_fail_on_a_character(stream: TextIO) -> None:
    """A terminal without Unicode shows a question mark, not a traceback."""
    with contextlib.suppress(AttributeError, ValueError):
        stream.reconfigure(errors="replace")  # type: ignore[attr-defined]
