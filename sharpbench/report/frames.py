"""An output directory as tidy pandas frames: the one door between files and everything that counts.

Schema version 1. The columns of each frame, with their meaning, are the dictionaries in
``columns.py``; ``runs`` has beside them one column per condition axis and, per measure, its value
(``trace``) and standard error (``trace_std_error``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ..bench.sources import KEY, source_notes
from ..source import UNKNOWN
from .columns import COUNTS, DENSITY, HISTORY, IDENTITY, MEASURES, METRICS, OUTCOME, STATUSES, TASK
from .plan import Plan, PlannedRun, axis_text, read_plan
from .reading import COLUMN_TYPES, RunRecord, read_run

KEYS = ("run_id", "optimizer", "condition", "seed")


@dataclass(frozen=True)
class Frames:
    """Everything known about a suite's runs.

    Attributes:
        runs: one row per planned run, in the plan's order, whatever became of it.
        history: one row per run and epoch.
        measures: one row per run and measure (long form).
        densities: one row per run and point of its spectral density.
        plan: title, reference, axes, baseline, planned …
        provenance: what the runs ran on: name -> the distinct values found.
        problems: one line for each thing a reader must know (unreadable runs, strangers, …).
    """

    runs: pd.DataFrame
    history: pd.DataFrame
    measures: pd.DataFrame
    densities: pd.DataFrame
    plan: Plan
    provenance: dict[str, list[str]]
    problems: tuple[str, ...]

    @property
    def done(self) -> pd.DataFrame:
        """The runs that finished with a result to compare."""
        return self.runs[self.runs["status"] == "done"]

    @property
    def measure_names(self) -> tuple[str, ...]:
        """The measures found, in order of first appearance."""
        return tuple(dict.fromkeys(self.measures["measure"]))


def collect(out: Path) -> Frames:
    """Read every run of the output directory ``out``.

    A directory without a result gives a row with ``status`` "missing" or "failed"; a file that can't be
    trusted gives "damaged" with the reason. Only the plan itself must be whole.

    Raises:
        InvalidInput: ``out`` has no ``plan.json``, or a damaged one.
    """
    out = Path(out)
    plan = read_plan(out)
    records = [(run, read_run(out / "runs" / run.run_id, run.run_id)) for run in plan.runs]
    keys = pd.DataFrame([_identity(run) for run in plan.runs], columns=list(KEYS)).set_index("run_id")
    measures = _stack(records, "measures", list(MEASURES), keys)
    runs = _runs_frame(records, plan)
    runs = _with_measures(runs, measures)
    provenance = _distinct(record for _, record in records)
    problems = (
        *plan.problems,
        *_mixed(provenance),
        *_sources(records),
        *_run_problems(runs),
        *_remarks(records),
        *_strangers(out, plan),
    )
    return Frames(
        runs=runs,
        history=_stack(records, "history", list(HISTORY), keys),
        measures=measures,
        densities=_stack(records, "densities", list(DENSITY), keys),
        plan=plan,
        provenance=provenance,
        problems=(*problems, *_imprecise(measures)),
    )


def _identity(run: PlannedRun) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "optimizer": run.optimizer,
        "condition": run.condition_label,
        "seed": run.seed,
    }


def _runs_frame(records: list[tuple[PlannedRun, RunRecord]], plan: Plan) -> pd.DataFrame:
    numbers = [*COUNTS, *METRICS]
    rows = []
    for run, record in records:
        task = {name: run.task.get(name) for name in TASK}
        rows.append(
            {**_identity(run), "optimizer_name": run.optimizer_name}
            | task
            | dict(run.condition)
            | {"status": record.status, "reason": record.reason}
            | {name: record.numbers.get(name, np.nan) for name in numbers}
        )
    axes = [axis for axis in plan.axes if axis not in TASK]
    frame = pd.DataFrame(rows, columns=[*IDENTITY, *axes, *TASK, *OUTCOME, *numbers])
    frame[numbers] = frame[numbers].astype("float64")
    for name in [*axes, *TASK]:
        kinds = {type(value) for value in frame[name].dropna()}
        # One column, one type: Parquet and sorting need it.
        if not (kinds <= {int, float} or kinds <= {str} or kinds <= {bool}):
            frame[name] = [axis_text(value) for value in frame[name]]
    return frame


def _stack(
    records: list[tuple[PlannedRun, RunRecord]], name: str, columns: list[str], keys: pd.DataFrame
) -> pd.DataFrame:
    """The runs' tables of one kind below each other, with the runs' keys in front."""
    found = [(run.run_id, record.tables[name]) for run, record in records if name in record.tables]
    schema = pa.schema([(column, COLUMN_TYPES.get(column, pa.float64())) for column in columns])
    table = pa.concat_tables([schema.empty_table(), *(table.select(columns) for _, table in found)])
    # Nullable booleans: "not known" is not "did not converge".
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    run_ids = np.repeat(
        np.array([run_id for run_id, _ in found], dtype=object), [len(table) for _, table in found]
    )
    for place, key in enumerate(KEYS):
        frame.insert(place, key, run_ids if key == "run_id" else keys[key].reindex(run_ids).to_numpy())
    return frame


def _with_measures(runs: pd.DataFrame, measures: pd.DataFrame) -> pd.DataFrame:
    """``runs`` with two columns per measure: its value and its standard error."""
    wide = {}
    for name in (str(found) for found in dict.fromkeys(measures["measure"])):
        rows = measures[measures["measure"] == name].set_index("run_id")
        wide[name] = rows["value"].reindex(runs["run_id"]).to_numpy(dtype="float64")
        wide[f"{name}_std_error"] = rows["std_error"].reindex(runs["run_id"]).to_numpy(dtype="float64")
    fresh = {name: column for name, column in wide.items() if name not in runs.columns}
    return pd.concat([runs, pd.DataFrame(fresh, index=runs.index)], axis=1)


def _run_problems(runs: pd.DataFrame) -> list[str]:
    lines = []
    for status in STATUSES[1:]:
        for _, row in runs[runs["status"] == status].iterrows():
            where = f"{row['optimizer']}, {row['condition']}, seed {row['seed']} (run {row['run_id']})"
            lines.append(f"{status}: {where}" + (f": {row['reason']}" if row["reason"] else ""))
    return lines


def _remarks(records: list[tuple[PlannedRun, RunRecord]]) -> list[str]:
    runs: dict[str, list[PlannedRun]] = {}
    for run, record in records:
        for remark in record.remarks:
            runs.setdefault(remark, []).append(run)
    return [f"{_named(concerned)}: {remark}" for remark, concerned in runs.items()]


def _named(runs: list[PlannedRun]) -> str:
    run = runs[0]
    if len(runs) == 1:
        return f"{run.optimizer}, {run.condition_label}, seed {run.seed} (run {run.run_id})"
    return f"{', '.join(dict.fromkeys(run.optimizer for run in runs))}, {len(runs)} runs"


def _sources(records: list[tuple[PlannedRun, RunRecord]]) -> list[str]:
    """Which versions of the source of optimizers that aren't ours made the results, if not one."""
    made = [
        (name := run.optimizer_name, record.provenance.get(f"{KEY}.{name}", UNKNOWN))
        for run, record in records
        if record.status in ("done", "diverged")
    ]
    return source_notes(made, compare_with_disk=False)


def _mixed(provenance: dict[str, list[str]]) -> list[str]:
    """What no comparison should be across: versions of the code, and of torch."""
    names = {
        "sharpbench": "versions of sharpbench",
        "code": "states of its code",
        "torch": "versions of torch",
    }
    return [
        f"the runs were made by {len(provenance[key])} {what}: {', '.join(provenance[key])}"
        for key, what in names.items()
        if len(provenance.get(key, [])) > 1
    ]


def _imprecise(measures: pd.DataFrame) -> list[str]:
    """Which measures missed the requested precision or have no interval, and in how many runs."""
    missed, open_ended = [], []
    for name in dict.fromkeys(measures["measure"]):
        rows = measures[measures["measure"] == name]
        wide = ~rows["converged"].fillna(True).astype(bool)
        # Lower bounds and values that do not exist: their notes say which.
        without = wide & rows["ci_low"].isna() & rows["ci_high"].isna()
        if without.any():
            open_ended.append(f"{name} in {int(without.sum())} of {len(rows)} runs")
        if (wide & ~without).any():
            missed.append(f"{name} in {int((wide & ~without).sum())} of {len(rows)} runs")
    # Loss-value rows at the end: they are the least precise by nature.
    missed.sort(key=lambda text: "@" in text)
    found = []
    if missed:
        found.append("did not reach the requested precision (see the intervals): " + ", ".join(missed))
    if open_ended:
        found.append("have no interval (lower bounds, or undefined): " + ", ".join(open_ended))
    return found


def _strangers(out: Path, plan: Plan) -> list[str]:
    folder = out / "runs"
    planned = {run.run_id for run in plan.runs}
    if not folder.is_dir():
        return []
    count = sum(entry.is_dir() and entry.name not in planned for entry in folder.iterdir())
    what = "run directory is" if count == 1 else "run directories are"
    return [f"{count} {what} not in the plan and left out"] if count else []


def _distinct(records: Iterable[RunRecord]) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in record.provenance.items():
            found.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in found.items()}
