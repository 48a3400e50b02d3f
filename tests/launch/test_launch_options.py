"""Slots, options of Slurm, journals, and extras that are not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpbench.bench.launch import Outcome, Settings, find_launcher
from sharpbench.bench.launch.slots import devices
from sharpbench.bench.launch.slurm_options import parse_options, parse_pairs
from sharpbench.bench.launch.slurm_task import Journal, JournalReader
from sharpbench.bench.progress import Progress
from sharpbench.errors import InvalidInput


@given(gpus=st.integers(1, 9), per_gpu=st.integers(1, 5), data=st.data())
def test_slots_share_gpus_evenly(gpus: int, per_gpu: int, data: st.DataObject) -> None:
    workers = data.draw(st.none() | st.integers(1, gpus * per_gpu))
    slots = devices(Settings(device="cuda", per_gpu=per_gpu, workers=workers), threads=1, gpus=gpus)
    assert len(slots) == (workers or gpus * per_gpu)
    loads = [slots.count(f"cuda:{gpu}") for gpu in range(gpus)]
    assert sum(loads) == len(slots)
    assert max(loads) - min(loads) <= 1
    assert max(loads) <= per_gpu


def test_slots_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="no CUDA device"):
        devices(Settings(device="cuda"), threads=1, gpus=0)
    with pytest.raises(InvalidInput, match="workers must be <= 4, but got 5 .2 GPUs with 2 runs each"):
        devices(Settings(device="cuda", per_gpu=2, workers=5), threads=1, gpus=2)
    with pytest.raises(InvalidInput, match="per_gpu must be >= 1"):
        devices(Settings(per_gpu=0), threads=1)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("1:30", 2), ("2:00:00", 120), ("1-0", 1440), ("1-1:1", 1501), ("0-0:0:61", 2)],
)
def test_time_as_slurm_writes_it(text: str, minutes: int) -> None:
    assert parse_options({"time": text}).minutes == minutes


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("time", "soon", "--slurm time must be minutes, HH:MM:SS or D-HH:MM:SS, but got 'soon'"),
        ("time", "0", "--slurm time must be >= 1 minute"),
        ("cpus", "0", "--slurm cpus must be a whole number >= 1"),
        ("runs", "many", "--slurm runs must be a whole number >= 1"),
        ("poll", "0", "--slurm poll must be a number of seconds > 0"),
        ("array", "1-3", "--slurm array: the launcher sets it"),
        ("mem\n#SBATCH", "1", "not the name of an sbatch option"),
        ("comment", "a\n#SBATCH --uid=0", "--slurm comment must be one line"),
    ],
)
def test_wrong_options_are_one_line(key: str, value: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_options({key: value})
    assert said in str(caught.value)


def test_pairs_need_an_equals_sign() -> None:
    with pytest.raises(InvalidInput, match="KEY=VALUE, such as time=120, but got 'partition gpu'"):
        parse_pairs(["partition gpu"])


def test_a_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "journal.jsonl"
    journal, reader = Journal(path, clock=lambda: now), JournalReader(path)
    assert reader.entries() == []
    first = Progress("r", "training", 0, 9)
    journal.progress(first)
    assert reader.entries() == [first]
    now = 0.1
    journal.progress(Progress("r", "training", 1, 9))  # too soon after the other
    measuring = Progress("r", "measuring", 9, 9, 0.5, 0.75)
    journal.progress(measuring)
    ended = Outcome("r", "done", attempts=2)
    journal.ended(ended)
    with path.open("a") as file:
        file.write('{"progress": {"run_id"')
    assert reader.entries() == [measuring, ended]
    with path.open("a") as file:
        file.write(': 1}}\n{"other": 1}\nnot json\n')
    journal.ended(ended)
    assert reader.entries() == [ended]


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_missing_is_named_with_its_command(
    launcher: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(InvalidInput, match=rf"pip install 'sharpbench\[{launcher}\]'"):
        find_launcher(launcher)
