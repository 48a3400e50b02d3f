"""Options of a Slurm job array: ``--slurm KEY=VALUE``, read and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidInput, must_be

# What the launcher itself decides; a second value would break it.
RESERVED = ("array", "error", "job-name", "output", "requeue", "signal", "wrap")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class SlurmOptions:
    """What the options come to.

    Attributes:
        minutes: time limit of a task (``time``); runs go on in the next task, so it need not hold all.
        cpus: of a task; None: what one run needs.
        gpus: of a task.
        runs: runs a task; None: one, or as many as keep an array within ``ARRAY_TASKS``.
        notice_seconds: before the time limit, when runs are told to write their checkpoints (``notice``).
        poll_seconds: between looks at what the tasks have written (``poll``).
        sbatch: everything else, handed to sbatch as ``--KEY=VALUE``.
    """

    minutes: int = 60
    cpus: int | None = None
    gpus: int = 0
    runs: int | None = None
    notice_seconds: int = 90
    poll_seconds: float = 2.0
    sbatch: Mapping[str, str] = field(default_factory=dict)


def parse_options(pairs: Mapping[str, str]) -> SlurmOptions:
    """Check the options of ``--slurm``.

    Raises:
        InvalidInput: a value that isn't what its key needs, or a key the launcher keeps to itself.

    >>> options = parse_options({"time": "1-00:30:00", "cpus": "4", "partition": "gpu"})
    >>> options.minutes, options.cpus, dict(options.sbatch)
    (1470, 4, {'partition': 'gpu'})
    """
    known: dict[str, Any] = {}
    sbatch: dict[str, str] = {}
    for key, value in pairs.items():
        match key:
            case "time":
                known["minutes"] = _minutes(value)
            case "cpus" | "runs":
                known[key] = _whole(key, value, 1)
            case "gpus":
                known[key] = _whole(key, value, 0)
            case "notice":
                known["notice_seconds"] = _whole(key, value, 10)
            case "poll":
                known["poll_seconds"] = _seconds(key, value)
            case _ if key in RESERVED:
                raise InvalidInput(f"--slurm {key}: the launcher sets it; leave it away")
            case _ if not re.fullmatch(r"[a-z][a-z-]*", key):
                raise InvalidInput(
                    f"--slurm {key!r}: not the name of an sbatch option (such as partition, account, mem)"
                )
            case _ if not value.isprintable():
                raise must_be(f"--slurm {key}", "one line", value)
            case _:
                sbatch[key] = value
    return SlurmOptions(**known, sbatch=sbatch)


def parse_pairs(texts: list[str]) -> dict[str, str]:
    """``["time=60", "partition=gpu"]`` as a dictionary.

    Raises:
        InvalidInput: one without ``=``.

    >>> parse_pairs(["time=60", "comment=a=b"])
    {'time': '60', 'comment': 'a=b'}
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidInput(f"--slurm must be KEY=VALUE, such as time=120, but got {text!r}")
        pairs[key.strip()] = value.strip()
    return pairs


def _minutes(value: str) -> int:
    """Slurm's own forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise must_be("--slurm time", "minutes, HH:MM:SS or D-HH:MM:SS", value)
    parts = [int(part) for part in match["rest"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        minutes += (24 * int(match["days"]) + hours) * 60
    else:
        hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
        minutes += hours * 60
    total = minutes + (seconds + 59) // 60
    if total < 1:
        raise must_be("--slurm time", ">= 1 minute", value)
    return total


def _whole(key: str, value: str, least: int) -> int:
    if not re.fullmatch(r"\d{1,9}", value) or int(value) < least:
        raise must_be(f"--slurm {key}", f"a whole number >= {least}", value)
    return int(value)


def _seconds(key: str, value: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", value) or float(value) <= 0:
        raise must_be(f"--slurm {key}", "a number of seconds > 0", value)
    return float(value)
