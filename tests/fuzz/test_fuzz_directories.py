"""A thousand damaged output directories: named, left out or run again, and never a traceback."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench_bad_suites import GOOD
from fuzz_calls import WHOLE_RUNS, call, no_hang
from fuzz_values import mutate_folder
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.store import Store
from sharpbench.bench.suite import parse_suite
from sharpbench.errors import InvalidInput
from sharpbench.report import collect, leaderboard

# No shrinking: it would take minutes, and the first failure is as good to look at.
FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
SMALL = GOOD.replace("epochs = 2", "epochs = 1").replace("[0, 1]", "0").replace("hvps = 20", "hvps = 10")
PLAN = parse_suite(SMALL, "small", "small.toml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzz") / "out"
    outcomes = run_plan(PLAN, out, "inline", Settings())
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    return out


@contextmanager
def damaged(data: st.DataObject, finished: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(finished, folder / "out")
        mutate_folder(data.draw, folder / "out")
        yield folder / "out"
    finally:
        shutil.rmtree(folder)


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


@settings(FUZZ, max_examples=400)
@given(data=st.data())
def test_status(finished: Path, data: st.DataObject) -> None:
    with damaged(data, finished) as out:
        call("status", out)


@settings(FUZZ, max_examples=300)
@given(data=st.data())
def test_doctor(finished: Path, data: st.DataObject) -> None:
    with damaged(data, finished) as out:
        call("doctor", out, allowed=(0, 1, 2))


@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_what_a_report_is_made_of(finished: Path, data: st.DataObject) -> None:
    whole = collect(finished)
    with damaged(data, finished) as out, no_hang():
        try:
            frames = collect(out)
        except InvalidInput as error:
            one_line(error)
            return
        board = leaderboard(frames)
        assert len(board) <= len(PLAN.runs)
        # What is called done has the numbers of the undamaged run: never a wrong one.
        for _, row in frames.done.iterrows():
            before = whole.runs[whole.runs["run_id"] == row["run_id"]].iloc[0]
            for name in ("trace", "trace_std_error"):
                assert row[name] == before[name]


@settings(FUZZ, max_examples=60)
@given(data=st.data())
def test_merge(finished: Path, data: st.DataObject) -> None:
    with damaged(data, finished) as out:
        target = out.parent / "merged"
        result = call("merge", target, out, finished, allowed=(0, 1, 2))
        if result.exit_code != 2:
            assert [Store(target).state(run.run_id)[0] for run in PLAN.runs] == ["done"] * 4


@settings(FUZZ, max_examples=35)
@given(data=st.data())
def test_run_mends_it(finished: Path, data: st.DataObject) -> None:
    os.environ[WHOLE_RUNS] = str(finished / "runs")
    with damaged(data, finished) as out, no_hang():
        try:
            outcomes = run_plan(PLAN, out, "inline", Settings("fuzz_calls:run_by_copy"), retry_failed=True)
        except InvalidInput as error:
            one_line(error)
            return
        bad = [outcome for outcome in outcomes if outcome.status != "done"]
        assert all("can't be written" in outcome.reason for outcome in bad)
        if not bad:
            assert [Store(out).state(run.run_id)[0] for run in PLAN.runs] == ["done"] * 4
            assert list(collect(out).runs["status"]) == ["done"] * 4


@settings(FUZZ, max_examples=5)
@given(data=st.data())
def test_report(finished: Path, data: st.DataObject) -> None:
    with damaged(data, finished) as out:
        call("report", out)
