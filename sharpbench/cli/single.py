"""The command that carries out a single run, by itself or over the processes of torchrun."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .work import Device, chosen_device, import_from_here

if TYPE_CHECKING:
    from ..bench.plan import Plan, PlannedRun


def train(
    suite: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped suite.")],
    run_id: Annotated[str, typer.Argument(help="The run's id, or its beginning (see OUT/plan.json).")],
    out: Annotated[
        Path | None, typer.Option(help="Output directory.", show_default="runs/SUITE-NAME")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the network is trained.")] = Device.auto,
) -> None:
    """Carry out one run of a suite; every mini-batch is shared under torchrun.

    Data-parallel: torchrun --nproc-per-node 2 -m sharpbench.cli train SUITE RUN_ID

    SIGTERM, SIGUSR2 and Ctrl-C leave a checkpoint; the same command goes on from there.
    """
    import_from_here()
    from ..bench.launch import Settings
    from ..bench.replaced import replace_outdated
    from ..bench.run import execute
    from ..bench.store import Store, claimed, open_store
    from ..bench.suite import read_suite
    from ..errors import InvalidInput
    from ..training.interrupt import stop_on_signals
    from ..training.parallel import torchrun_ranks

    checked = read_suite(suite)
    run = find_run(checked.plan, run_id)
    place = out or Path("runs") / checked.name
    with (
        torchrun_ranks() as ranks,
        stop_on_signals(signal.SIGTERM, signal.SIGINT, signal.SIGUSR2),
    ):
        where = chosen_device(device)
        if ranks.count > 1 and where == "cuda":
            where = f"cuda:{ranks.local}"
        if not ranks.first:
            execute(run.spec, Store(place).directory(run.run_id), None, where, ranks)
            return
        store = open_store(place, checked.plan)
        directory = store.directory(run.run_id)
        replace_outdated(store, [run], Settings(notice=typer.echo))
        with claimed(directory) as mine:
            if not mine:
                raise InvalidInput(f"run {run.run_id} is under way in another process")
            if store.result(run.run_id) is not None and ranks.count == 1:
                typer.echo(f"{run.run_id}  {run.title}: finished before")
                return
            status = execute(run.spec, directory, None, where, ranks)
    typer.echo(f"{run.run_id}  {run.title}: {status}")


def find_run(plan: Plan, run_id: str) -> PlannedRun:
    """The planned run whose id begins so.

    Raises:
        InvalidInput: none, or more than one.
    """
    from ..errors import InvalidInput

    found = {run.run_id: run for run in plan.runs if run.run_id.startswith(run_id)}
    if len(found) != 1:
        first = plan.runs[0]
        raise InvalidInput(
            f"{len(found)} of the suite's runs have an id that begins with {run_id!r}; "
            f"the first of its {len(plan.runs)} runs is {first.run_id} ({first.title})"
        )
    return next(iter(found.values()))
