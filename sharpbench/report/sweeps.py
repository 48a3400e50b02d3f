"""Rows that are values of one swept parameter: a choice among them by test accuracy is not a result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

import pandas as pd

from .display import count, listing
from .plan import Plan, PlannedRun

# Labels of a sweep end with what was swept, as the suite writes them: "sam rho=0.05".
SUFFIX = re.compile(r" ([A-Za-z_]\w*)=")


def swept_parameters(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Optimizer label -> the parameters in whose values alone it differs from other rows; empty for none.

    Rows belong to one sweep if they have the same optimizer and either their labels say so
    (``sam rho=0.05``, ``sam rho=0.1``) or their specifications set the same parameters to different values.
    """
    first: dict[str, PlannedRun] = {}
    for run in plan.runs:
        first.setdefault(run.optimizer, run)
    found: dict[str, tuple[str, ...]] = dict.fromkeys(first, ())
    families: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in first.values():
        keys = tuple(sorted(run.parameters))
        families.setdefault(("parameters", run.optimizer_name, *keys), []).append(run)
        named = SUFFIX.findall(run.optimizer)
        if named:
            head = run.optimizer[: SUFFIX.search(run.optimizer).start()]  # type: ignore[union-attr]
            families.setdefault(("label", run.optimizer_name, head, *named), []).append(run)
    for (kind, _, *rest), runs in families.items():
        varied = tuple(rest[1:]) if kind == "label" else _varied(run.parameters for run in runs)
        if len(runs) > 1 and varied:
            for run in runs:
                found[run.optimizer] = tuple(dict.fromkeys((*found[run.optimizer], *varied)))
    return found


def _varied(parameters: Iterable[Mapping[str, object]]) -> tuple[str, ...]:
    """The names whose values differ."""
    texts = [{key: json.dumps(value, sort_keys=True) for key, value in each.items()} for each in parameters]
    return tuple(key for key in texts[0] if len({each[key] for each in texts}) > 1)


def sweep_warning(board: pd.DataFrame) -> str:
    """What a reader must know of swept rows; nothing if there are none.

    >>> sweep_warning(pd.DataFrame({"optimizer": ["sgd"], "swept": [""]}))
    ''
    """
    rows = board.loc[board["swept"] != "", ["optimizer", "swept"]].drop_duplicates() if len(board) else board
    if not len(rows):
        return ""
    names = list(dict.fromkeys(rows["swept"]))
    return (
        f"{count(len(rows), 'row')} are values of swept parameters ({listing(names)}), each ranked by test "
        "accuracy. Nothing was tuned on held-out data: the best of such rows was picked on the test data, "
        "so that its accuracy is optimistic, and an optimizer with more values has more chances"
    )
