"""The commands that only look: status, validate, list, version."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import console, simple_table
from .work import Device, import_from_here

if TYPE_CHECKING:
    from ..bench.store import State

STATES: tuple[State, ...] = ("done", "diverged", "failed", "damaged", "running", "missing")


class Kind(StrEnum):
    """What can be listed."""

    optimizers = "optimizers"
    measures = "measures"
    models = "models"
    datasets = "datasets"
    suites = "suites"


def status(
    directory: Annotated[Path, typer.Argument(help="The output directory of a run.")],
    lines: Annotated[int, typer.Option(min=1, help="Lines of a failed run's log to show.")] = 1,
) -> None:
    """How far an output directory is: runs done, diverged, failed (why), damaged (how), running, missing."""
    from ..bench.sources import recorded_source, source_notes
    from ..bench.store import ERROR_LOG, Store, last_lines, read_plan

    plan = read_plan(directory)
    store = Store(directory)
    runs = {run.run_id: run for run in plan.runs}
    found = {run_id: store.state(run_id) for run_id in runs}
    finished = [run for run_id, run in runs.items() if found[run_id][0] in ("done", "diverged")]
    total = Counter(state for state, _ in found.values())
    by_label: dict[str, Counter[State]] = {label: Counter() for label in plan.labels}
    for run_id, run in runs.items():
        by_label[run.label][found[run_id][0]] += 1
    screen = console()
    rows = [[label, *(str(counts[state]) for state in STATES)] for label, counts in by_label.items()]
    screen.print(plan.title, markup=False, highlight=False)
    screen.print(simple_table(["optimizer", *STATES], rows))
    counts = ", ".join(f"{total[state]} {state}" for state in STATES if total[state])
    typer.echo(f"{len(runs)} runs planned: {counts}")
    for state in ("failed", "damaged", "diverged"):
        for run_id, (ended, reason) in found.items():
            if ended == state:
                typer.echo(f"  {state}  {run_id}  {runs[run_id].title}: {reason}")
                if state == "failed" and lines > 1:
                    for line in last_lines(store.directory(run_id) / ERROR_LOG, lines):
                        typer.echo(f"    {line}")
    import_from_here()
    made = [(run.spec.optimizer.name, recorded_source(store.result(run.run_id) or {})) for run in finished]
    for note in source_notes(made, compare_with_disk=True):
        typer.echo(note)
    if total["failed"]:
        typer.echo("`sharpbench run SUITE --retry-failed` runs the failed ones again")
    if total["damaged"]:
        typer.echo("`sharpbench run SUITE` runs the damaged ones again")


def validate(
    suite: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped suite.")],
    price: Annotated[
        bool, typer.Option("--price", help="Measure a second of each kind of step, and price the suite.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where steps are measured for the price.")] = Device.auto,
) -> None:
    """Check a suite and say what it would run, and with --price what that costs; nothing is written."""
    from ..bench.suite import read_suite

    import_from_here()
    plan = read_suite(suite).plan
    screen = console()
    by_label = Counter(run.label for run in plan.runs)
    epochs = {
        label: sorted({run.spec.task.epochs for run in plan.runs if run.label == label}) for label in by_label
    }
    rows = [
        [label, str(count), " ".join(str(number) for number in sorted(epochs[label]))]
        for label, count in by_label.items()
    ]
    screen.print(plan.title, markup=False, highlight=False)
    screen.print(simple_table(["optimizer", "runs", "epochs"], rows))
    by_condition = Counter(tuple(str(run.condition[axis]) for axis in plan.axes) for run in plan.runs)
    condition_rows = [[*values, str(count)] for values, count in by_condition.items()]
    screen.print(simple_table([*plan.axes, "runs"], condition_rows))
    seeds = len({run.spec.seed for run in plan.runs})
    typer.echo(
        f"{len({run.run_id for run in plan.runs})} runs: {len(by_label)} optimizers, "
        f"{len(by_condition)} conditions, {seeds} seeds; baseline {plan.baseline}"
    )
    if price:
        from .timing import show_price

        show_price(plan, device)


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """What a suite may name."""
    entries = _entries(kind)
    if as_json:
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    keys = list(entries[0]) if entries else ["name", "summary"]
    rows = [[_cell(entry[key]) for key in keys] for entry in entries]
    console().print(simple_table(keys, rows))


def version() -> None:
    """The versions of sharpbench and torch."""
    from importlib.metadata import version as installed

    from .. import __version__

    typer.echo(f"sharpbench {__version__} (torch {installed('torch')})")


def _entries(kind: Kind) -> list[dict[str, Any]]:
    if kind is Kind.optimizers:
        from ..optim.registry import OPTIMIZERS

        return [
            {"name": name, "parameters": _plain(entry.parameters), "summary": entry.summary}
            for name, entry in OPTIMIZERS.items()
        ]
    if kind is Kind.suites:
        from ..bench.suite import read_suite, shipped_suites

        plans = {name: read_suite(name).plan for name in shipped_suites()}
        return [{"name": name, "runs": len(plan.runs), "summary": plan.title} for name, plan in plans.items()]
    registered: Any
    if kind is Kind.models:
        from ..models import MODELS as registered
    elif kind is Kind.datasets:
        from ..data import DATASETS as registered
    else:
        from ..sharpness import MEASURES as registered
    return [{"name": name, "summary": _summary(entry)} for name, entry in registered.items()]


def _summary(entry: Any) -> str:
    text = getattr(entry, "summary", None) or getattr(entry, "__doc__", None) or ""
    return str(text).strip().split("\n")[0]


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    """Defaults as JSON can hold them; a parameter without a default is null."""
    return {
        name: value if isinstance(value, bool | int | float | str | None) else None
        for name, value in parameters.items()
    }


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return str(value)
