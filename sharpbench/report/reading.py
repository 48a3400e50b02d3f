"""Read one run directory, believing nothing: a damaged file makes a damaged run, never a wrong number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..bench.inventory import mismatch
from ..files import read_bytes
from .columns import COUNTS, DENSITY, HISTORY, MEASURES, METRICS, REQUIRED_METRICS

RUN_SCHEMA_VERSION = 1
# File -> (its name among the frames, its columns, those that must be there).
TABLES = {
    "history.parquet": ("history", HISTORY, ("epoch",)),
    "measures.parquet": ("measures", MEASURES, ("measure", "value")),
    "density.parquet": ("densities", DENSITY, ("eigenvalue", "density")),
}
COLUMN_TYPES = {"measure": pa.string(), "converged": pa.bool_(), "epoch": pa.int64()}


class Damaged(ValueError):
    """What is wrong with a file of a run directory, in one line."""


@dataclass(frozen=True)
class RunRecord:
    """What a run directory holds. ``numbers`` has the counts and metrics (nan where there is none)."""

    status: str
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def read_run(directory: Path, run_id: str) -> RunRecord:
    """The record of the run in ``directory``; never raises for what it finds there.

    ``result.json`` decides: with it the run is done or diverged; with only ``error.log`` it has failed;
    with neither it is missing. A file that can't be read, contradicts the format, or is not the one the
    result records (its size; for what goes into the report its SHA-256) makes it "damaged", and then
    nothing of the run is used.
    """
    try:
        if not (directory / "result.json").exists():
            return _unfinished(directory)
        content = read_json(directory / "result.json")
        status, reason, numbers = _result(content, run_id)
        wrong = mismatch(directory, content)
        if wrong:
            raise Damaged(wrong)
        recorded = content.get("files") or {}
        provenance = _provenance(directory, recorded)
        tables = _tables(directory, status, recorded)
        said = content.get("remarks")
        remarks = tuple(printable(line)[:300] for line in said) if isinstance(said, list) else ()
        return RunRecord(status, reason, numbers, provenance, tables, remarks)
    except (Damaged, OSError, ValueError, RecursionError, pa.ArrowException) as error:
        return RunRecord("damaged", printable(_one_line(error)))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises Damaged with the file's name for anything else."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is not JSON ({_one_line(error)})") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path.name} holds a {type(content).__name__}, not an object")
    return content


def _unfinished(directory: Path) -> RunRecord:
    log = directory / "error.log"
    if log.exists():
        lines = read_bytes(log).decode("utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return RunRecord("failed", printable(said[-1][:300]) if said else "error.log is empty")
    return RunRecord("missing", "started, not finished" if directory.is_dir() else "not started")


def _result(content: dict[str, Any], run_id: str) -> tuple[str, str, dict[str, float]]:
    if content.get("schema_version") != RUN_SCHEMA_VERSION:
        found = content.get("schema_version")
        raise Damaged(f"result.json has schema_version {found!r}; this version reads {RUN_SCHEMA_VERSION}")
    if content.get("run_id") != run_id:
        raise Damaged(f"result.json belongs to run {content.get('run_id')!r}")
    status = content.get("status")
    if status not in ("done", "diverged"):
        raise Damaged(f"result.json has status {status!r}; allowed: done, diverged")
    numbers = {name: _number(content, name, "result.json") for name in COUNTS}
    metrics = content.get("metrics")
    if status == "diverged":
        numbers |= dict.fromkeys(METRICS, math.nan)
    elif not isinstance(metrics, dict):
        raise Damaged("result.json says done but has no metrics")
    else:
        numbers |= _metrics(metrics)
    return status, printable(content.get("reason") or ""), numbers


def _metrics(metrics: dict[str, Any]) -> dict[str, float]:
    values = {name: _number(metrics, name, "metrics in result.json") for name in METRICS}
    for name in REQUIRED_METRICS:
        if math.isnan(values[name]):
            raise Damaged(f"metrics in result.json has no {name}")
    for name in ("train_accuracy", "clean_train_accuracy", "test_accuracy"):
        if not math.isnan(values[name]) and not 0.0 <= values[name] <= 1.0:
            raise Damaged(f"{name} must be a fraction in [0, 1], but is {values[name]!r}")
    for name in ("loss", "accuracy"):
        # Runs without label noise may leave it out: then it is the plain test figure.
        if math.isnan(values[f"noisy_test_{name}"]):
            values[f"noisy_test_{name}"] = values[f"test_{name}"]
    for gap, expected in (
        ("accuracy_gap", values["train_accuracy"] - values["noisy_test_accuracy"]),
        ("loss_gap", values["noisy_test_loss"] - values["train_loss"]),
    ):
        if math.isnan(values[gap]):
            values[gap] = expected
        elif not math.isclose(values[gap], expected, rel_tol=1e-4, abs_tol=1e-6):
            raise Damaged(f"{gap} is {values[gap]!r}, but the metrics beside it give {expected!r}")
    return values


def _number(content: Mapping[str, Any], name: str, where: str) -> float:
    value = content.get(name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Damaged(f"{name} in {where} must be a finite number, but is {value!r}")
    return float(value)


def _provenance(directory: Path, recorded: Mapping[str, Any]) -> dict[str, str]:
    path = directory / "provenance.json"
    if not path.exists():
        return {}
    _must_be_as_written(path.name, read_bytes(path), recorded)
    return dict(_flatten(read_json(path)))


def _must_be_as_written(file: str, content: bytes, recorded: Mapping[str, Any]) -> None:
    if recorded and hashlib.sha256(content).hexdigest() != recorded.get(file, {}).get("sha256"):
        raise Damaged(f"{file} is not the file that was written (another SHA-256)")


def _flatten(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    items: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            items += _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            items.append((printable(f"{prefix}{key}"), printable(value)))
    return items


def _tables(directory: Path, status: str, recorded: Mapping[str, Any]) -> dict[str, pa.Table]:
    tables = {}
    for file, (name, columns, required) in TABLES.items():
        path = directory / file
        if path.exists() and (status == "done" or name == "history"):
            content = read_bytes(path)
            _must_be_as_written(file, content, recorded)
            tables[name] = _table(file, content, tuple(columns), required)
    measures = tables.get("measures")
    if measures is not None and len(measures["measure"].unique()) != len(measures):
        raise Damaged("measures.parquet names a measure twice")
    return tables


def _table(file: str, content: bytes, columns: tuple[str, ...], required: tuple[str, ...]) -> pa.Table:
    """The documented columns of a Parquet file with their documented types; absent ones are null."""
    try:
        with pq.ParquetFile(pa.BufferReader(content)) as parquet:
            table = parquet.read(use_threads=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise Damaged(f"{file} can't be read ({_one_line(error)})") from error
    absent = [name for name in required if name not in table.column_names]
    if absent:
        raise Damaged(f"{file} has no column {', '.join(absent)}")
    arrays = {}
    for name in columns:
        kind = COLUMN_TYPES.get(name, pa.float64())
        if name not in table.column_names:
            arrays[name] = pa.nulls(len(table), kind)
            continue
        try:
            arrays[name] = table[name].cast(kind)
        except (ValueError, pa.ArrowException) as error:
            raise Damaged(f"{file}: column {name} is not {kind} ({_one_line(error)})") from error
        if name in required and arrays[name].null_count and name != "value":
            raise Damaged(f"{file}: column {name} has empty entries")
    return pa.table(arrays)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def printable(text: object) -> str:
    """Text from users without control characters, which could rewrite a terminal's screen.

    >>> printable("a" + chr(27) + "[2Jb")
    'a�[2Jb'
    """
    return "".join(
        c if c.isprintable() else ("\N{REPLACEMENT CHARACTER}" if c != "\n" else " ") for c in str(text)
    )
