"""Results of an earlier version of an optimizer's source: put aside, and their runs made again."""

from __future__ import annotations

import shutil
from collections.abc import Collection

from ..errors import InvalidInput
from ..source import UNKNOWN, module_of, refresh
from .launch import Settings
from .plan import PlannedRun
from .sources import is_outdated, recorded_source, started_source
from .store import ERROR_LOG, RESULT, Store, claimed, read_result

FOLDER = "replaced"


def replace_outdated(
    store: Store, runs: Collection[PlannedRun], settings: Settings, *, keep: bool = False
) -> list[str]:
    """Put aside what another version of an optimizer's source made, and say so in one line an optimizer.

    The source that counts is the one on disk; a process that has loaded another imports it anew. Runs that
    failed under another version may run again, too. Results that don't say which version made them stay.

    Args:
        store: of the runs.
        runs: to look at; only those of optimizers named ``MODULE:CLASS`` matter.
        settings: whose ``notice`` is told.
        keep: only say it.

    Returns:
        ids of the runs put aside.
    """
    replaced: list[str] = []
    for name in dict.fromkeys(run.spec.optimizer.name for run in runs):
        if not module_of(name):
            continue
        now = refresh(module_of(name))
        if now == UNKNOWN:
            settings.say(f"{name}: its source can't be read, so that edits to it will not be noticed")
        old: dict[str, str] = {}
        silent = 0
        for run in runs:
            if run.spec.optimizer.name != name:
                continue
            made_by = _made_by(store, run)
            silent += made_by == UNKNOWN
            if made_by is not None and is_outdated(made_by, now):
                old[run.run_id] = made_by
        if silent:
            settings.say(
                f"{name}: {silent} results don't say which version of its source made them; they stay"
            )
        if not old:
            continue
        versions = ", ".join(sorted(set(old.values())))
        what = f"{name}: its source has changed ({versions} -> {now}) since {len(old)} runs ended"
        if keep:
            settings.say(f"{what}; they stay, and the report says so")
            continue
        settings.say(f"{what}; they are run again, the old results are in {store.out / FOLDER}")
        for run_id, made_by in old.items():
            put_aside(store, run_id, made_by)
        replaced += old
    return replaced


def put_aside(store: Store, run_id: str, source: str) -> None:
    """Move a run's directory to ``replaced/RUN_ID-SOURCE``, unless somebody is at work in it.

    Raises:
        InvalidInput: it can't be moved.
    """
    directory = store.directory(run_id)
    target = store.out / FOLDER / f"{run_id}-{source}"
    try:
        with claimed(directory) as mine:
            if not mine:
                return
            target.parent.mkdir(exist_ok=True)
            if target.exists():  # the same run by the same source
                shutil.rmtree(target)
            directory.rename(target)
    except OSError as error:
        raise InvalidInput(f"{directory} can't be moved to {target} ({error.strerror})") from None


def _made_by(store: Store, run: PlannedRun) -> str | None:
    """The source that a run which has ended was made by; None of one that hasn't."""
    directory = store.directory(run.run_id)
    result = read_result(directory, run.run_id)
    if result is not None:
        return recorded_source(result)
    if (directory / ERROR_LOG).is_file() and not (directory / RESULT).exists():
        failed = started_source(directory, run.spec.optimizer.name)
        return None if failed == UNKNOWN else failed
    return None
