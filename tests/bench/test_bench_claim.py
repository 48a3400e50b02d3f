"""Claims: one holder at a time, dead ones are recovered, and no clock takes a claim from somebody alive."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sharpbench.bench import claim
from sharpbench.bench.claim import LOCK, OWNER, claimed, is_claimed, read_owner

HOLD = """
import sys, time
from pathlib import Path
from sharpbench.bench.claim import claimed
with claimed(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""
# A lock without our heartbeat's thread: what a machine that died leaves on a file server.
LOCK_ONLY = """
import sys, time
from filelock import FileLock
FileLock(sys.argv[1] + "/.lock").acquire()
print(True, flush=True)
time.sleep(60)
"""


@contextmanager
def holder(directory: Path, code: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    directory.mkdir(parents=True, exist_ok=True)
    root = str(Path(claim.__file__).parent.parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def sign(directory: Path, host: str, age: float, process: int = 1) -> None:
    """``.owner`` as another would have left it, last touched ``age`` seconds ago."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / OWNER
    path.write_text(json.dumps({"host": host, "process": process, "token": f"t{age}".replace(".", "p")}))
    moment = path.stat().st_mtime - age
    os.utime(path, (moment, moment))


def mine(directory: Path) -> bool:
    with claimed(directory) as got:
        return got


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats of a hundredth of a second: stale after a tenth."""
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.01)


def test_a_process_that_dies_frees_its_claim_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert not mine(tmp_path)
        assert is_claimed(tmp_path)
        owner = read_owner(tmp_path)
        assert owner is not None
        assert (owner.host, owner.process, owner.alive) == (platform.node(), process.pid, True)
        process.kill()
        process.wait()
        assert not is_claimed(tmp_path)
        assert mine(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]


@pytest.mark.usefixtures("quick")
def test_the_heartbeat_goes_on_and_stops(tmp_path: Path) -> None:
    with claimed(tmp_path):
        before = (tmp_path / OWNER).stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while (tmp_path / OWNER).stat().st_mtime_ns == before:
            assert time.monotonic() < deadline, "no heartbeat"
            time.sleep(0.01)
    assert not (tmp_path / OWNER).exists()


def test_a_live_owner_on_another_machine_holds_a_lock_that_is_not_shared(tmp_path: Path) -> None:
    sign(tmp_path, "elsewhere", age=1.0)
    assert not mine(tmp_path)
    assert is_claimed(tmp_path)


def test_an_old_owner_is_watched_before_it_is_believed_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after a clock that jumped an hour ahead between two beats: it looks old, and is alive.
    sign(tmp_path, "elsewhere", age=3600.0)
    assert not mine(tmp_path)
    os.utime(tmp_path / OWNER)
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 1e-9)
    assert not mine(tmp_path), "it has moved: watching begins anew"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("age", [3600.0, -3600.0], ids=["long ago", "in the future"])
def test_a_silent_owner_on_another_machine_is_recovered_whatever_the_clock(
    tmp_path: Path, age: float
) -> None:
    sign(tmp_path, "elsewhere", age)
    deadline = time.monotonic() + 20
    while not mine(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]


@pytest.mark.usefixtures("quick")
def test_the_lock_of_a_dead_machine_is_taken_over_once(tmp_path: Path) -> None:
    with holder(tmp_path, LOCK_ONLY):
        sign(tmp_path, "elsewhere", age=3600.0)
        assert not mine(tmp_path)
        time.sleep(0.1)
        with claimed(tmp_path) as got:
            assert got
            assert not mine(tmp_path)
            owner = read_owner(tmp_path)
            assert owner is not None
            assert owner.here
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]


@pytest.mark.usefixtures("quick")
def test_a_silent_process_that_lives_on_this_machine_keeps_its_claim(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        sign(tmp_path, platform.node(), age=3600.0, process=process.pid)
        for _ in range(5):
            assert not mine(tmp_path)
            time.sleep(0.05)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', '{"host": "a", "process": "x", "token": ""}'])
def test_an_unreadable_owner_is_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / OWNER).write_text(text)
    assert read_owner(tmp_path) is None
    assert mine(tmp_path)
