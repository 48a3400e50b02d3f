"""What things cost: the time of each optimizer, and the price of a suite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import console, simple_table
from .work import Device, chosen_device, import_from_here

if TYPE_CHECKING:
    from ..bench.plan import Plan

DEVICES = (1, 8, 1000)


def time_suite(
    suite: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped suite.")],
    csv: Annotated[Path | None, typer.Option(help="Also write the table here, as CSV.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Turns each optimizer gets.")] = 21,
    device: Annotated[Device, typer.Option(help="Where steps are timed.")] = Device.auto,
) -> None:
    """Time a step of each optimizer of a suite as a ratio to SGD's, side by side.

    Nothing else should compute here meanwhile; a busy machine is named.
    """
    import_from_here()
    from ..bench.launch.slots import available_cores
    from ..bench.suite import read_suite
    from ..bench.timing import time_plan
    from ..files import write_text

    plan = read_suite(suite).plan
    where = chosen_device(device)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5 * available_cores():
        typer.echo(f"others are computing here (load {load:.1f}): the intervals will be wide", err=True)
    with console(stderr=True).status("timing") as status:
        frame = time_plan(plan, where, rounds, told=lambda text: status.update(f"timing {text}"))
    rows = [
        [
            str(row["model"]),
            str(row["optimizer"]),
            f"{row['milliseconds']:.3f}",
            f"{row['ratio']:.2f}",
            f"[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]",
            f"{row['gradients']:.2f}",
        ]
        for row in frame.to_dict("records")
    ]
    screen = console()
    screen.print(
        simple_table(["model", "optimizer", "ms a step", "× SGD", "95 % interval", "gradients a step"], rows)
    )
    if csv is not None:
        write_text(csv, frame.to_csv(index=False, lineterminator="\n"))
        typer.echo(str(csv))


def show_price(plan: Plan, device: Device) -> None:
    """Print what a suite costs: per optimizer, and in hours on one, eight and a thousand devices."""
    from ..bench.price import finished_after, price

    with console(stderr=True).status("pricing") as status:
        prices = price(plan, chosen_device(device), told=lambda text: status.update(f"a second of {text}"))
    by_label: dict[str, list[str]] = {}
    for run_id, found in prices.items():
        by_label.setdefault(found.label, []).append(run_id)
    rows = []
    for label, run_ids in by_label.items():
        group = [prices[run_id] for run_id in run_ids]
        rows.append(
            [
                label,
                str(len(group)),
                f"{1000.0 * sum(p.step_seconds for p in group) / len(group):.3f}",
                f"{sum(p.gradients for p in group) / len(group):.0f}",
                f"{sum(p.seconds for p in group) / len(group):.1f}",
            ]
        )
    console().print(
        simple_table(["optimizer", "runs", "ms a step", "gradients a run", "seconds a run"], rows)
    )
    seconds = [found.seconds for found in prices.values()]
    typer.echo(f"{sum(found.gradients for found in prices.values()):.4g} gradient evaluations")
    for count in DEVICES:
        last = finished_after(seconds, count)
        name = "device like this one" if count == 1 else "devices"
        note = "" if count < len(seconds) else " (more than there are runs: the longest run decides)"
        typer.echo(f"{count:>5} {name}: {duration(last)}{note}")


def duration(seconds: float) -> str:
    """Seconds for people, always with the hours.

    >>> duration(5400)
    '1.50 hours'
    >>> duration(30)
    '0.00833 hours (30.0 s)'
    """
    hours = f"{seconds / 3600:.3g} hours"
    return f"{seconds / 3600:.2f} hours" if seconds >= 3600 else f"{hours} ({seconds:.1f} s)"
