"""Read a suite (one TOML file), check every word of it, and expand it to frozen RunSpecs.

A suite reads::

    title = "Sharpness-aware optimizers on digits"
    reference = "arXiv 2501.06603"      # optional
    baseline = "sgd"                    # optional: a label; the first optimizer otherwise

    [task]                              # keys of TaskSpec
    epochs = 60

    [matrix]                            # or several [[matrix]] tables, united
    seed = [0, 1, 2]                    # seed, or any key of TaskSpec: a value or a list
    label_noise = [0, 0.5]

    [[optimizer]]
    name = "sam"                        # a registered name, or "MODULE:CLASS"
    rho = [0.05, 0.1]                   # a list is swept: "sam rho=0.05", "sam rho=0.1"
    lr = 0.05                           # own lr, weight_decay, momentum, epochs_multiplier

    [measure]                           # keys of MeasureSpec
    hvps = 60
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import DATASETS, dataset_entry
from ..errors import InvalidInput, SharpbenchError, must_be, unknown_name
from ..models import MODELS
from ..optim.registry import OPTIMIZERS, check_parameters
from ..sharpness import MEASURES
from ..source import module_of, refresh
from ..spec import MeasureSpec, OptimizerSpec, RunSpec, TaskSpec
from .matrix import MOST_RUNS, OVERRIDES, Point, Variant, matrix_points, variants
from .plan import Plan, PlannedRun
from .tables import check_table, require_table, shown

KEYS = ("title", "reference", "baseline", "task", "matrix", "optimizer", "measure")
OPTIMIZER_KEYS = ("name", "label", *OVERRIDES, "epochs_multiplier")
_LARGEST_FILE = 1_000_000


@dataclass(frozen=True)
class Suite:
    """A checked suite: its plan holds every run."""

    name: str
    path: Path
    plan: Plan


def shipped_suites() -> dict[str, Path]:
    """Suites that come with sharpbench, by name.

    >>> sorted(shipped_suites())
    ['digits', 'quickstart']
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "suites", package.parent / "suites"):
        found = {path.stem: path for path in sorted(folder.glob("*.toml"))}
        if found:
            return found
    return {}


def find_suite(name: str | Path) -> Path:
    """The file a suite is read from: a path, or the name of a shipped suite.

    Raises:
        InvalidInput: neither a file nor a shipped suite.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_suites()
    if str(name) in shipped:
        return shipped[str(name)]
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; name a suite file, such as {path / 'suite.toml'}")
    error = unknown_name("suite", str(name), shipped)
    raise InvalidInput(f"{error} (or the path of a TOML file; there is no file of that name)")


def read_suite(name: str | Path, extra_optimizers: Sequence[str] = ()) -> Suite:
    """Read, check and expand a suite.

    Args:
        name: a path, or the name of a shipped suite.
        extra_optimizers: registered names or ``MODULE:CLASS``, run under every condition of the suite.

    Raises:
        InvalidInput: anything wrong, in one line that names file and place and says what is allowed.

    Example:
        >>> len(read_suite("quickstart").plan.runs)
        36
    """
    path = find_suite(name)
    shown_path = path if Path(name).is_file() else Path(f"{name}.toml")
    try:
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise InvalidInput(f"{shown_path}: {size} bytes are too many for a suite; is it another file?")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidInput(f"{shown_path}: can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{shown_path}: not UTF-8 text (byte {error.start}); is it a TOML file?") from None
    plan = parse_suite(text, path.stem, str(shown_path), extra_optimizers)
    return Suite(path.stem, path, plan)


def parse_suite(text: str, name: str, where: str, extra_optimizers: Sequence[str] = ()) -> Plan:
    """The plan of a suite given as text; ``where`` leads every message. Raises as :func:`read_suite`."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise InvalidInput(f"{where}: not valid TOML: {reason}") from None
    for key in content:
        if key not in KEYS:
            raise unknown_name("key", key, KEYS, where)
    task = _task(content.get("task", {}), f"{where}: [task]")
    points, axes = _matrix(content.get("matrix"), task, where)
    methods = _optimizers(content.get("optimizer"), points, where, extra_optimizers)
    baseline = _text(content, "baseline", methods[0].label, where)
    if baseline not in [method.label for method in methods]:
        raise unknown_name("label", baseline, [method.label for method in methods], f"{where}: baseline")
    if len(points) * len(methods) > MOST_RUNS:
        raise InvalidInput(
            f"{where}: {len(points) * len(methods)} runs are more than {MOST_RUNS}; split the suite"
        )
    measure = _measure(content.get("measure", {}), f"{where}: [measure]")
    return Plan(
        suite=name,
        title=_text(content, "title", name, where),
        reference=_text(content, "reference", "", where),
        text=text,
        axes=tuple(axes),
        baseline=baseline,
        runs=_expand(task, points, axes, methods, measure),
    )


def _text(content: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = content.get(key, default)
    if not isinstance(value, str) or not value.isprintable() or len(value) > 1000:
        raise must_be(f"{where}: {key}", "one line of text", shown(value))
    return value


def _task(value: object, where: str) -> TaskSpec:
    task = check_table(TaskSpec, require_table(value, where), where)
    _require_known(task, where)
    return task


def _require_known(task: TaskSpec, where: str) -> None:
    if task.dataset.partition(":")[0] not in DATASETS:
        raise unknown_name("dataset", shown(task.dataset), DATASETS, where)
    dataset_entry(task.dataset, where)
    if task.model not in MODELS:
        raise unknown_name("model", shown(task.model), MODELS, where)


def _measure(value: object, where: str) -> MeasureSpec:
    measure = check_table(MeasureSpec, require_table(value, where), where)
    if not measure.measures:
        raise InvalidInput(f"{where} measures is an empty list; leave the key out to measure everything")
    for name in measure.measures:
        if name not in MEASURES:
            raise unknown_name("measure", shown(name), MEASURES, where)
    return measure


def _matrix(value: object, task: TaskSpec, where: str) -> tuple[list[Point], list[str]]:
    """The distinct points of all matrix tables, and the axes that tell conditions apart."""
    if value is None:
        raise InvalidInput(f"{where}: no [matrix]; give at least [matrix] with seed = [0, 1, 2]")
    tables = value if isinstance(value, list) else [value]
    points: dict[tuple[tuple[str, Any], ...], Point] = {}
    named: dict[str, None] = {}
    for number, table in enumerate(tables, 1):
        place = f"{where}: [matrix]" if not isinstance(value, list) else f"{where}: [[matrix]] {number}"
        for point in matrix_points(require_table(table, place), place):
            settled = task.model_copy(update={key: v for key, v in point.items() if key != "seed"})
            _require_known(settled, place)
            # Two tables may say the same with and without a default: the settled task decides.
            settled_point = {**settled.model_dump(), "seed": point.get("seed", 0)}
            points.setdefault(tuple(settled_point.items()), settled_point)
        named.update(dict.fromkeys(key for key in table if key != "seed"))
    if not points:
        raise InvalidInput(f"{where}: [[matrix]] is empty; give at least one table with seed = [0, 1, 2]")
    axes = [axis for axis in named if len({point[axis] for point in points.values()}) > 1]
    return list(points.values()), axes or ["dataset", "model"]


def _optimizers(value: object, points: list[Point], where: str, extra: Sequence[str]) -> list[Variant]:
    if not isinstance(value, list) or not value or not all(isinstance(table, dict) for table in value):
        hint = "write [[optimizer]] with two brackets" if isinstance(value, dict) else "give at least one"
        raise InvalidInput(f'{where}: no [[optimizer]] tables; {hint}, such as [[optimizer]] name = "sam"')
    tables = [(table, f"{where}: [[optimizer]] {number}") for number, table in enumerate(value, 1)]
    tables += [({"name": name}, "--optimizer") for name in extra]
    taken: dict[str, str] = {}
    methods = []
    for module in {module_of(str(table.get("name", ""))) for table, _ in tables} - {""}:
        refresh(module)  # a process that has loaded an earlier version checks the present one
    for table, place in tables:
        for method in variants(table, place):
            _check_method(method, points, f"{place} {shown(method.name)!r}")
            if method.label in taken:
                first = taken[method.label]
                raise InvalidInput(
                    f"{place} {shown(method.name)!r}: label {method.label!r} is already used by {first}; "
                    "give each optimizer its own label"
                )
            taken[method.label] = place.removeprefix(f"{where}: ")
            methods.append(method)
    return methods


def _check_method(method: Variant, points: list[Point], where: str) -> None:
    if method.name in OPTIMIZERS:
        allowed = {*OPTIMIZERS[method.name].parameters, *OPTIMIZER_KEYS}
        for key in method.parameters:
            if key not in allowed:
                raise unknown_name("parameter", key, allowed, where)
    for key in method.overrides:
        if len({point[key] for point in points}) > 1:
            raise InvalidInput(
                f"{where}: its own {key} would hide the {key} axis of the matrix; drop one of them"
            )
    try:
        check_parameters(method.name, method.parameters, where)
    except SharpbenchError:
        raise
    except Exception as error:  # a user's class may fail in any way
        raise InvalidInput(f"{where}: can't be built: {type(error).__name__}: {error}") from error


def _expand(
    task: TaskSpec, points: list[Point], axes: list[str], methods: list[Variant], measure: MeasureSpec
) -> tuple[PlannedRun, ...]:
    """Conditions in order, within each the optimizers, within each the seeds."""
    by_condition: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        by_condition.setdefault(tuple(point[axis] for axis in axes), []).append(point)
    runs = []
    for values, group in by_condition.items():
        for method in methods:
            optimizer = OptimizerSpec(name=method.name, label=method.label, parameters=method.parameters)
            for point in group:
                settled = task.model_copy(update={key: v for key, v in point.items() if key != "seed"})
                spec = RunSpec(
                    seed=point["seed"], task=method.task(settled), optimizer=optimizer, measure=measure
                )
                condition = dict(zip(axes, values, strict=True))
                runs.append(PlannedRun(run_id=spec.id, label=method.label, condition=condition, spec=spec))
    return tuple(runs)
