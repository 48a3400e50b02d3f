"""Read ``plan.json``: what was to be run, in which order, and how the report calls it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidInput
from .columns import RUN_COLUMNS, TASK
from .reading import Damaged, printable, read_json

PLAN_SCHEMA_VERSION = 1
RUN_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class PlannedRun:
    """One entry of the plan. ``condition`` maps axis to value, without the seed."""

    run_id: str
    optimizer: str
    optimizer_name: str
    parameters: Mapping[str, Any]
    condition: Mapping[str, Any]
    seed: int
    task: Mapping[str, Any]

    @property
    def condition_label(self) -> str:
        """The condition in words: ``label_noise = 0.5``."""
        return (
            ", ".join(f"{axis} = {axis_text(value)}" for axis, value in self.condition.items()) or "all runs"
        )


@dataclass(frozen=True)
class Plan:
    """The plan's head and its runs, in the order of the suite."""

    suite: str
    title: str
    reference: str
    text: str
    axes: tuple[str, ...]
    baseline: str | None
    runs: tuple[PlannedRun, ...]
    problems: tuple[str, ...]

    @property
    def planned(self) -> int:
        """How many runs."""
        return len(self.runs)

    @property
    def optimizers(self) -> tuple[str, ...]:
        """Labels, in order of first appearance."""
        return tuple(dict.fromkeys(run.optimizer for run in self.runs))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Labels of the conditions, in order of first appearance."""
        return tuple(dict.fromkeys(run.condition_label for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, ascending."""
        return tuple(sorted({run.seed for run in self.runs}))


def axis_text(value: object) -> str:
    """An axis value as text; different values give different texts.

    >>> axis_text(0.5), axis_text(0.0), axis_text(0), axis_text("digits")
    ('0.5', '0', '0', 'digits')
    """
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def read_plan(out: Path) -> Plan:
    """The plan of an output directory.

    Raises:
        InvalidInput: no ``plan.json``, or one that does not follow the format.
    """
    path = out / "plan.json"
    if not path.is_file():
        exists = "has no plan.json" if out.is_dir() else "does not exist"
        raise InvalidInput(
            f"{out} {exists}; a report is made from an output directory of `sharpbench run` "
            "(it holds plan.json and runs/), not from a single run or a report directory"
        )
    try:
        content = read_json(path)
        return _plan(content)
    except Damaged as error:
        raise InvalidInput(f"{path}: {error}") from error


def _plan(content: Mapping[str, Any]) -> Plan:
    if content.get("schema_version") != PLAN_SCHEMA_VERSION:
        raise Damaged(
            f"schema_version must be {PLAN_SCHEMA_VERSION}, but got {content.get('schema_version')!r} "
            "(the directory was written by another version of sharpbench)"
        )
    entries = content.get("runs")
    if not isinstance(entries, list):
        raise Damaged("runs must be a list of planned runs")
    axes = content.get("axes", [])
    if not isinstance(axes, list) or not all(isinstance(axis, str) for axis in axes):
        raise Damaged("axes must be a list of names")
    axes = tuple(axis for axis in axes if axis != "seed")
    taken = [axis for axis in axes if axis in RUN_COLUMNS and axis not in TASK]
    if taken:
        raise Damaged(f"an axis can't be called {', '.join(taken)}: the frames have a column of that name")
    runs: dict[str, PlannedRun] = {}
    problems = []
    for place, entry in enumerate(entries):
        run = _planned_run(entry, axes, f"runs[{place}]")
        if run.run_id in runs:
            problems.append(f"plan.json lists run {run.run_id} twice; it is counted once, as {run.optimizer}")
        else:
            runs[run.run_id] = run
    baseline = content.get("baseline")
    if baseline is not None and baseline not in {run.optimizer for run in runs.values()}:
        problems.append(f"the baseline {baseline!r} is not among the optimizers: nothing is compared to it")
        baseline = None
    suite = printable(content.get("suite") or "suite")
    return Plan(
        suite=suite,
        title=printable(content.get("title") or suite),
        reference=printable(content.get("reference") or ""),
        text=str(content.get("text") or ""),
        axes=axes,
        baseline=None if baseline is None else printable(baseline),
        runs=tuple(runs.values()),
        problems=tuple(problems),
    )


def _planned_run(entry: object, axes: tuple[str, ...], where: str) -> PlannedRun:
    if not isinstance(entry, dict):
        raise Damaged(f"{where} must be an object")
    run_id, label, condition, spec = (entry.get(key) for key in ("run_id", "label", "condition", "spec"))
    # The id becomes a path: nothing but hex digits may pass.
    if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
        raise Damaged(f"{where}: run_id must be 16 hex digits, but got {run_id!r}")
    if not isinstance(label, str) or not isinstance(condition, dict) or not isinstance(spec, dict):
        raise Damaged(f"{where}: label (text), condition and spec (objects) are needed")
    absent = [axis for axis in axes if axis not in condition]
    if absent:
        raise Damaged(f"{where}: condition has no value for {', '.join(absent)}")
    optimizer, task, seed = spec.get("optimizer"), spec.get("task"), spec.get("seed")
    if not isinstance(optimizer, dict) or not isinstance(task, dict) or not isinstance(seed, int):
        raise Damaged(f"{where}: spec needs optimizer and task (objects) and seed (a whole number)")
    return PlannedRun(
        run_id=run_id,
        optimizer=printable(label),
        optimizer_name=printable(optimizer.get("name", label)),
        parameters=optimizer.get("parameters") or {},
        condition={axis: _scalar(condition[axis]) for axis in axes},
        seed=seed,
        task=task,
    )


def _scalar(value: object) -> object:
    if isinstance(value, str):
        return printable(value)
    return value if isinstance(value, int | float | bool) else axis_text(value)
