"""Workers get a better allocator where there is one, which changes no number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from required_tools import without

from sharpbench.allocator import installed_allocator, preload
from sharpbench.bench.compare import difference
from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.suite import parse_suite

SUITE = """
[task]
model = "small_cnn"
epochs = 2
[matrix]
seed = [0]
[[optimizer]]
name = "sam"
[measure]
measures = ["spectrum"]
examples = 64
hvps = 12
"""


def test_the_choice_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.delenv("SHARPBENCH_ALLOCATOR", raising=False)
    assert preload() == installed_allocator()
    monkeypatch.setenv("SHARPBENCH_ALLOCATOR", "system")
    assert preload() is None
    monkeypatch.delenv("SHARPBENCH_ALLOCATOR")
    monkeypatch.setenv("LD_PRELOAD", "")
    assert preload() is None


def test_another_allocator_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed_allocator() is None:
        without("tcmalloc", "neither tcmalloc nor jemalloc: apt-get install libtcmalloc-minimal4")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    plan = parse_suite(SUITE, "short", "short.toml")
    places = []
    for choice in ("auto", "system"):
        monkeypatch.setenv("SHARPBENCH_ALLOCATOR", choice)
        out = tmp_path / choice
        assert [o.status for o in run_plan(plan, out, "local", Settings(device="cpu", workers=1))] == ["done"]
        places.append(out / "runs" / plan.runs[0].run_id)
    names = [json.loads((place / "provenance.json").read_text())["allocator"] for place in places]
    assert names[0] in ("tcmalloc", "jemalloc")
    assert names[1] == "system"
    assert difference(*places) is None
