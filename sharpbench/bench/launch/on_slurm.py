"""The Slurm launcher: job arrays by submitit, each task a small local launcher of its own.

What a task says travels through a journal, and how a run ended is read from its directory: both in the
output directory, which the nodes must share. Slurm's accounting is never asked, since many sites have none;
``squeue`` tells which tasks are still there. A run whose task has left without a trace has failed.

Before its time limit a task gets SIGUSR2: its runs write checkpoints, it is requeued, and they go on.
"""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import InvalidInput
from ..progress import Progress
from ..store import ERROR_LOG, claimed, last_line, last_lines, read_result
from . import Job, Outcome, Outcomes, Settings
from .attempt import record_failure
from .slurm_options import SlurmOptions, parse_options
from .slurm_task import JournalReader, Pack

# Slurm's default MaxArraySize is 1001, and sites limit submissions: more runs than this share tasks.
ARRAY_TASKS = 1000
REQUEUES = 1000
QUEUE_POLLS = 5  # looks at the journals for one at the queue: the controller serves everybody
LOG_LINES = 20


@dataclass
class _Task:
    """One task of an array, and the runs it still owes."""

    id: str
    log: Path
    journal: JournalReader
    owed: dict[str, Job]
    reports: dict[str, Outcome] = field(default_factory=dict)
    gone_since: float | None = None


def launch(jobs: Sequence[Job], settings: Settings) -> Outcomes:
    """Submit ``jobs`` as arrays and follow them; closed early (Ctrl-C), it cancels the arrays.

    Args:
        jobs: runs and their directories, on a file system that the nodes share.
        settings: ``slurm``: see :class:`~sharpbench.bench.launch.slurm_options.SlurmOptions`; ``workers``:
            at most so many runs side by side over all tasks.

    Raises:
        InvalidInput: no Slurm here, wrong options, or sbatch refuses.
    """
    options = parse_options(settings.slurm)
    if not jobs:
        return
    for command in ("sbatch", "squeue", "scancel", "srun"):
        if shutil.which(command) is None:
            raise InvalidInput(
                f"launcher 'slurm': no {command} on the PATH; start it on a login node of Slurm"
            )
    tasks: list[_Task] = []
    try:
        _submit(jobs, settings, options, tasks)
        yield from _follow(tasks, settings, options)
    finally:
        if any(task.owed for task in tasks):
            arrays = _arrays(tasks)
            subprocess.run(["scancel", *arrays], capture_output=True, timeout=60, check=False)
            settings.say(
                f"cancelled Slurm array {', '.join(arrays)}; runs in progress keep their checkpoints"
            )


def _submit(jobs: Sequence[Job], settings: Settings, options: SlurmOptions, tasks: list[_Task]) -> None:
    import submitit

    threads = max(job.spec.task.threads for job in jobs)
    cpus = options.cpus or threads * max(1, options.gpus * settings.per_gpu)
    on_gpu = settings.device == "cuda" or (settings.device == "auto" and options.gpus > 0)
    side_by_side = options.gpus * settings.per_gpu if on_gpu else max(1, cpus // threads)
    runs = options.runs or max(side_by_side, math.ceil(len(jobs) / ARRAY_TASKS))
    packs = [jobs[start : start + runs] for start in range(0, len(jobs), runs)]
    out = jobs[0].directory.resolve().parent.parent
    folder = out / "slurm" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True)
    told = replace(
        settings,
        listener=None,
        notice=None,
        slurm={},
        device="cuda" if on_gpu else "cpu",
        workers=side_by_side,
        # The rest of the time between the signal and the limit is for requeueing.
        grace_seconds=max(5.0, options.notice_seconds - 30.0),
    )
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
    gpus = {"gpus_per_node": options.gpus} if options.gpus else {}
    parallel = len(packs) if settings.workers is None else max(1, settings.workers // side_by_side)
    executor.update_parameters(
        job_name="sharpbench",
        time=options.minutes,
        cpus_per_task=cpus,
        signal_delay_s=options.notice_seconds,
        array_parallelism=parallel,
        stderr_to_stdout=True,
        additional_parameters={"requeue": True, **options.sbatch},
        **gpus,
    )
    search_path = tuple(str(Path(entry).resolve()) for entry in sys.path)
    for first in range(0, len(packs), ARRAY_TASKS):
        part = packs[first : first + ARRAY_TASKS]
        journals = [folder / f"journal-{first + place}.jsonl" for place in range(len(part))]
        calls = [
            Pack(
                tuple((job.spec.canonical(), str(job.directory.resolve())) for job in pack),
                told,
                str(journal),
                search_path,
            )
            for pack, journal in zip(part, journals, strict=True)
        ]
        try:
            submitted = executor.submit_array(calls)
        except submitit.core.utils.FailedJobError as error:
            raise InvalidInput(f"sbatch refuses: {' '.join(str(error).split())}") from None
        for handle, pack, journal in zip(submitted, part, journals, strict=True):
            owed = {job.run_id: job for job in pack}
            tasks.append(_Task(handle.job_id, Path(handle.paths.stdout), JournalReader(journal), owed))
    settings.say(
        f"Slurm array {', '.join(_arrays(tasks))}: {len(tasks)} task(s) for {len(jobs)} runs; "
        f"logs in {folder}"
    )


def _follow(tasks: list[_Task], settings: Settings, options: SlurmOptions) -> Outcomes:
    look = 0
    while any(task.owed for task in tasks):
        queue = _queue(_arrays(tasks)) if look % QUEUE_POLLS == 0 else None
        look += 1
        now = time.monotonic()
        for task in tasks:
            if not task.owed:
                continue
            for entry in task.journal.entries():
                if isinstance(entry, Outcome):
                    task.reports[entry.run_id] = entry
                elif entry.run_id in task.owed and settings.listener is not None:
                    settings.listener(Progress(**vars(entry)))
            if queue is not None:
                gone = task.id not in queue
                task.gone_since = (task.gone_since or now) if gone else None
            # A shared file system shows a file some seconds after another machine has written it.
            lag = 5 * options.poll_seconds
            vanished = task.gone_since is not None and now - task.gone_since > lag
            expected = list(task.owed) if task.gone_since is not None else list(task.reports)
            for run_id in expected:
                if run_id not in task.owed:
                    continue
                outcome = _ended(task.owed[run_id], task.reports.get(run_id))
                if outcome is None and vanished:
                    outcome = _vanished(task, task.owed[run_id])
                if outcome is not None:
                    del task.owed[run_id]
                    yield outcome
        if any(task.owed for task in tasks):
            time.sleep(options.poll_seconds)


def _ended(job: Job, report: Outcome | None) -> Outcome | None:
    """How a run ended by what is in its directory; None: that doesn't say so (yet)."""
    attempts = report.attempts if report else 1
    here = report.here if report else True
    result = read_result(job.directory, job.run_id)
    if result is not None:
        return Outcome(job.run_id, result["status"], str(result.get("reason") or ""), attempts, here)
    if (job.directory / ERROR_LOG).exists():
        return Outcome(job.run_id, "failed", last_line(job.directory / ERROR_LOG), attempts, here)
    # A directory that can't be written has no error.log; the journal is all there is.
    return report if report is not None and report.status == "failed" else None


def _vanished(task: _Task, job: Job) -> Outcome:
    said = last_lines(task.log, LOG_LINES)
    account = "\n".join([*said, f"Slurm task {task.id} left the queue without a result; its log ends: "])
    account += said[-1].strip() if said else "(no log)"
    with claimed(job.directory) as mine:
        if mine:
            return record_failure(job, account)
    return Outcome(job.run_id, "failed", account.rpartition("\n")[2])


def _queue(arrays: list[str]) -> set[str] | None:
    """The tasks that wait or run; None when the controller doesn't answer (that is no news of any task)."""
    command = ["squeue", "--noheader", "--array", f"--jobs={','.join(arrays)}", "--format=%i"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode == 0:
            return set(re.findall(r"^\S+$", answer.stdout, re.MULTILINE))
        # Ended jobs are forgotten after a while; of several arrays, squeue leaves out those it has forgotten.
        if "Invalid job id" in answer.stderr:
            return set()
    return None


def _arrays(tasks: list[_Task]) -> list[str]:
    """The ids of the arrays, as ``scancel`` takes them."""
    return list(dict.fromkeys(task.id.partition("_")[0] for task in tasks))
