"""The commands that write: run, report, demo."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import console

if TYPE_CHECKING:
    from ..bench.launch import Outcome
    from ..bench.plan import Plan


class LauncherName(StrEnum):
    """How runs are carried out."""

    inline = "inline"
    local = "local"
    ray = "ray"
    slurm = "slurm"


CLUSTERS = (LauncherName.ray, LauncherName.slurm)


class OtherVersion(StrEnum):
    """What becomes of results that another version of sharpbench made."""

    refuse = "refuse"
    accept = "accept"
    redo = "redo"


class Device(StrEnum):
    """Where networks are trained."""

    cpu = "cpu"
    cuda = "cuda"
    auto = "auto"


def run(
    suite: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped suite.")],
    out: Annotated[
        Path | None, typer.Option(help="Output directory.", show_default="runs/SUITE-NAME")
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(metavar="MOD:CLASS", help="Also run your own optimizer under every condition."),
    ] = None,
    launcher: Annotated[
        LauncherName,
        typer.Option(
            help="One by one, in worker processes, or on a Ray or Slurm cluster (docs/launchers.md)."
        ),
    ] = LauncherName.local,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs side by side.", show_default="as many as there is room for"),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where networks are trained.")] = Device.auto,
    per_gpu: Annotated[int, typer.Option(min=1, help="Runs that share a GPU.")] = 1,
    address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster, such as auto.", show_default="one for this launch"),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Of the job array: time, cpus, gpus, runs (per task), notice, poll, or an sbatch option "
            "such as partition, account, mem.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option(help="Print failures and the path of the page only.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also run again what failed before.")
    ] = False,
    other_version: Annotated[
        OtherVersion,
        typer.Option(help="Finished runs of another version of sharpbench: keep or repeat them."),
    ] = OtherVersion.refuse,
) -> None:
    """Run what is left of a suite, then print the leaderboard and render the report.

    Finished runs in the output directory are kept: an interrupted suite goes on where it stopped.
    Exit codes: 0 done, 1 some runs failed, 2 bad input.
    """
    import_from_here()
    from ..bench.drive import run_plan
    from ..bench.launch import Settings
    from ..bench.launch.slurm_options import parse_pairs
    from ..bench.suite import read_suite
    from .live import PlainWatch, live_watch

    checked = read_suite(suite, optimizer or [])
    out = out or Path("runs") / checked.name
    settings = Settings(
        # On a cluster the devices are those of its nodes, not of this machine.
        device=device.value if launcher in CLUSTERS else chosen_device(device),
        workers=workers,
        per_gpu=per_gpu,
        address=address,
        slurm=parse_pairs(slurm or []),
    )
    _only_where_it_counts(launcher, address, slurm)
    carry_out = partial(run_plan, retry_failed=retry_failed, other_version=other_version.value)
    if quiet:
        outcomes = carry_out(checked.plan, out, launcher.value, settings, PlainWatch(failures_only=True))
    else:
        with live_watch(checked.plan) as watch:
            settings = replace(settings, notice=watch.say)
            outcomes = carry_out(checked.plan, out, launcher.value, settings, watch)
    _show_report(out, None, quiet)
    _list_failures(checked.plan, outcomes)


def report(
    directory: Annotated[Path, typer.Argument(help="The output directory of a run.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the report goes.", show_default="DIRECTORY/report")
    ] = None,
) -> None:
    """Render the report of an output directory: one HTML page, tables, figures and frames."""
    _show_report(directory, out, quiet=False)


def demo(
    name: Annotated[str, typer.Argument(help="asymmetric-valley or adversarial-model.")],
    out: Annotated[
        Path | None, typer.Option(help="Where figures and tables go.", show_default="runs/demo-NAME")
    ] = None,
) -> None:
    """Run a case study of the literature that takes seconds."""
    from ..demo import DEMOS
    from ..errors import unknown_name

    if name not in DEMOS:
        raise unknown_name("demo", name, DEMOS)
    out = out or Path("runs") / f"demo-{name}"
    result = DEMOS[name].run(out)
    screen = console()
    screen.print(result.text, markup=False, highlight=False)
    for figure in result.figures:
        typer.echo(str(figure))


def _show_report(directory: Path, destination: Path | None, quiet: bool) -> None:
    from ..report import render

    rendered = render(directory, destination)
    if not quiet:
        screen = console()
        for table in rendered.tables:
            screen.print(table)
        for problem in rendered.problems:
            screen.print(problem, markup=False, highlight=False)
    typer.echo(str(rendered.page))


def _list_failures(plan: Plan, outcomes: list[Outcome]) -> None:
    failed = {outcome.run_id: outcome for outcome in outcomes if outcome.status == "failed"}
    if not failed:
        return
    titles = {run.run_id: run.title for run in plan.runs}
    typer.echo(
        f"{len(failed)} of {len(titles)} runs failed (the others are kept; --retry-failed runs them again):",
        err=True,
    )
    for run_id, outcome in failed.items():
        typer.echo(f"  {run_id}  {titles[run_id]}: {outcome.reason}", err=True)
    raise typer.Exit(1)


def _only_where_it_counts(launcher: LauncherName, address: str | None, slurm: list[str] | None) -> None:
    """An option of another launcher is a mistake: the runs would go where nobody meant them to."""
    from ..errors import InvalidInput

    if address is not None and launcher is not LauncherName.ray:
        raise InvalidInput(f"--address goes with --launcher ray, not {launcher.value}")
    if slurm and launcher is not LauncherName.slurm:
        raise InvalidInput(f"--slurm goes with --launcher slurm, not {launcher.value}")


def chosen_device(device: Device) -> str:
    """What torch calls it.

    Raises:
        InvalidInput: CUDA was asked for and isn't there.
    """
    import torch

    from ..errors import InvalidInput

    available = torch.cuda.is_available()
    if device is Device.cuda and not available:
        raise InvalidInput("--device cuda: torch sees no CUDA device here; choose cpu or auto")
    return "cuda" if available and device is not Device.cpu else "cpu"


def import_from_here() -> None:
    """Let MODULE:CLASS name a file of the current folder; last on the path, so that it shadows nothing."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
