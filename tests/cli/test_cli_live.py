"""What people see while runs go on."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import bench_runs
import pytest
from rich.console import Console

import sharpbench
from sharpbench.bench.launch import Outcome
from sharpbench.bench.progress import Progress
from sharpbench.cli.live import Board, PlainWatch, Tally, clock

ROOT = Path(sharpbench.__file__).parent.parent
PLAN = bench_runs.make_plan(["a", "b [x]", "c"])
FIRST, SECOND, THIRD = (run.run_id for run in PLAN.runs)


def test_plain_lines_are_one_a_run_and_failures_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    watch = PlainWatch()
    watch.begin(PLAN.runs, 2)
    for epoch in range(3):
        watch.progress(Progress(FIRST, "training", epoch, 2, 0.5, 0.912))
    watch.ended(Outcome(FIRST, "done"))
    watch.ended(Outcome(SECOND, "failed", "OSError: no [disk]"))
    watch.ended(Outcome(THIRD, "done", here=False))
    output, errors = capsys.readouterr()
    assert output.splitlines() == [
        "3 runs to do, 2 finished before",
        "[1/3] done     a · dataset=digits · model=mlp · seed 0 (0.0 s, test accuracy 91.2 %)",
        "[3/3] done     c · dataset=digits · model=mlp · seed 0",
    ]
    assert errors == "[2/3] FAILED   b [x] · dataset=digits · model=mlp · seed 0: OSError: no [disk]\n"


def test_quiet_names_failures_only(capsys: pytest.CaptureFixture[str]) -> None:
    watch = PlainWatch(failures_only=True)
    watch.begin(PLAN.runs, 0)
    watch.ended(Outcome(FIRST, "done"))
    watch.ended(Outcome(SECOND, "failed", "why"))
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.endswith(": why\n")


def test_the_board_shows_the_whole_and_each_running_job() -> None:
    screen = Console(file=io.StringIO(), width=120, force_terminal=False)
    board = Board(screen)
    board.begin(PLAN.runs, 4)
    board.progress(Progress(FIRST, "training", 0, 2))
    board.progress(Progress(SECOND, "training", 1, 2, 0.25, 0.875))
    board.progress(Progress(THIRD, "measuring", 2, 2, 0.1, 0.9))
    with screen.capture() as captured:
        screen.print(board)
    lines = captured.get().splitlines()
    assert lines[0].split("seed 0")[1].split()[-1] == "starting"
    assert lines[1].startswith("  b [x] · dataset=digits")
    bar, *cells = lines[1].split("seed 0")[1].split()
    assert bar == "━" * 8  # half of its sixteen cells: epoch 1 of 2
    assert cells == ["epoch", "1/2", "loss", "0.2500", "87.5", "%"]
    assert "measuring" in lines[2]
    assert "0/3 runs, 4 finished before" in lines[3]
    board.ended(Outcome(SECOND, "failed", "OSError: no [disk]"))
    board.ended(Outcome(FIRST, "done"))
    screen.print(board)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "FAILED   b [x] · dataset=digits · model=mlp · seed 0" in shown
    assert "OSError: no [disk]" in shown
    assert "2/3 runs, 1 failed, 4 finished before" in shown
    assert "0:00 left" in shown


def test_the_remaining_time_is_the_work_left_at_the_measured_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("sharpbench.cli.live.time.monotonic", lambda: now)
    tally = Tally()
    tally.begin(PLAN.runs, 0)
    assert tally.remaining_seconds() is None
    tally.progress(Progress(FIRST, "training", 0, 2))
    now = 110.0
    tally.ended(Outcome(FIRST, "done"))
    assert tally.remaining_seconds() == pytest.approx(20.0)
    tally.progress(Progress(SECOND, "training", 1, 2))
    assert tally.remaining_seconds() == pytest.approx(15.0)
    tally.progress(Progress(THIRD, "training", 1, 2))
    assert tally.remaining_seconds() == pytest.approx(5.0)  # two side by side


def test_speed_counts_from_the_first_epoch_that_was_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sharpbench.cli.live.time.monotonic", lambda: now)
    tally = Tally()
    tally.begin(PLAN.runs, 0)
    tally.progress(Progress(FIRST, "training", 0, 90))
    now = 10.0  # imports, data
    tally.progress(Progress(FIRST, "training", 31, 90))
    assert tally.speed(tally.running[FIRST]) == "", "thirty epochs came from a checkpoint"
    now = 12.0
    tally.progress(Progress(FIRST, "training", 36, 90))
    now = 20.0  # the display is drawn again; nothing new was heard
    assert tally.speed(tally.running[FIRST]) == "2.5 epochs/s"
    tally.progress(Progress(FIRST, "training", 0, 90))  # tried anew
    tally.progress(Progress(FIRST, "training", 1, 90))
    now = 25.0
    tally.progress(Progress(FIRST, "training", 2, 90))
    assert tally.speed(tally.running[FIRST]) == "5.0 s/epoch"


def test_what_a_launcher_says_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    PlainWatch().say("Slurm array 7: [bold]")
    PlainWatch(failures_only=True).say("not this")
    assert capsys.readouterr().out == "Slurm array 7: [bold]\n"
    screen = Console(file=io.StringIO(), width=120, force_terminal=False)
    Board(screen).say("Slurm array 7: [bold]")
    assert screen.file.getvalue() == "Slurm array 7: [bold]\n"  # type: ignore[attr-defined]


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.2, 59.6, 3600)] == ["0:00", "1:00", "1:00:00"]


def test_a_terminal_gets_the_board(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this platform")
    (tmp_path / "small.toml").write_text(
        '[task]\nepochs = 3\n[matrix]\nseed = [0, 1]\n[[optimizer]]\nname = "sgd"\n'
        '[[optimizer]]\nname = "sam"\nrho = 1e30\n[measure]\nmeasures = ["sam_sharpness"]\n'
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sharpbench.cli", "run", "small.toml", "--launcher", "inline"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert process.wait() == 0, text
    assert "/4 runs" in text
    assert "DIVERGED sam · dataset=digits · model=mlp · seed 0" in text
    assert "] done " not in text
    assert shown.count(b"\x1b[?25h") >= 1, "the cursor must come back"
