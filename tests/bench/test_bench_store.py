"""The output directory believes only whole results of the right run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import bench_runs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpbench.bench.drive import run_plan
from sharpbench.bench.inventory import sealed
from sharpbench.bench.launch import Settings
from sharpbench.bench.plan import parse_plan
from sharpbench.bench.store import Store, claimed, open_store, read_plan
from sharpbench.errors import InvalidInput

RUN_ID = "0123456789abcdef"
WHOLE = {"schema_version": 1, "run_id": RUN_ID, "status": "done"}


NOT_JSON, NO_OBJECT = "result.json is not JSON: cut off, or overwritten", "result.json is not an object"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", NOT_JSON),
        ("{", NOT_JSON),
        ("null", NO_OBJECT),
        ("[1]", NO_OBJECT),
        ('"done"', NO_OBJECT),
        (json.dumps(WHOLE)[:-1], NOT_JSON),
        (json.dumps({**WHOLE, "run_id": "f" * 16}), "result.json is that of another run"),
        (json.dumps({**WHOLE, "status": "failed"}), "result.json has an unknown status"),
        (json.dumps({**WHOLE, "status": ["done"]}), "result.json has an unknown status"),
        (json.dumps({**WHOLE, "schema_version": 2}), "result.json has another schema version than 1"),
        (json.dumps(sealed({**WHOLE, "files": {"gone": {"bytes": 1}}})), "gone is missing"),
        (
            json.dumps(sealed({**WHOLE, "files": {"../x": {}}})),
            "result.json records a file '../x' that can't be one of",
        ),
        (json.dumps(sealed({**WHOLE, "files": 3})), "result.json has no list of files"),
        (json.dumps({**sealed(WHOLE), "steps": 3}), "result.json is not what was written"),
        (json.dumps({**WHOLE, "files": {}}), "result.json is not what was written"),
        ("[" * 100_000, NOT_JSON),
        ("\xff", NOT_JSON),
    ],
)
def test_a_damaged_result_is_not_finished(tmp_path: Path, text: str, said: str) -> None:
    store = Store(tmp_path)
    store.directory(RUN_ID).mkdir(parents=True)
    path = store.directory(RUN_ID) / "result.json"
    path.write_bytes(text.encode("latin-1"))
    assert store.result(RUN_ID) is None
    state, reason = store.state(RUN_ID)
    assert state == "damaged"
    assert reason.startswith(said)
    path.write_text(json.dumps(WHOLE))
    assert store.state(RUN_ID) == ("done", "")


def test_a_damaged_run_is_run_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = bench_runs.make_plan(["a", "b"])
    settings = Settings(execute=bench_runs.EXECUTE)
    run_plan(plan, out, "inline", settings)
    whole = bench_runs.content(out)
    damaged = Store(out).directory(plan.runs[0].run_id)
    (damaged / "result.json").write_text('{"run_id": ')
    (damaged / "folder").mkdir()
    (damaged / "folder" / "left").write_text("over")
    (damaged / "link").symlink_to(tmp_path)
    (outcome,) = run_plan(plan, out, "inline", settings)
    assert outcome.run_id == plan.runs[0].run_id
    assert bench_runs.content(out) == whole
    assert tmp_path.exists()


def test_the_states_of_a_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory = store.directory(RUN_ID)
    assert store.state(RUN_ID) == ("missing", "")
    assert not directory.exists(), "looking at a run must not create it"
    with claimed(directory) as mine:
        assert mine
        assert store.state(RUN_ID) == ("running", "")
    assert store.state(RUN_ID) == ("missing", "")
    (directory / "error.log").write_text("Traceback\nOSError: disk full\n")
    assert store.state(RUN_ID) == ("failed", "OSError: disk full")
    (directory / "result.json").write_text(json.dumps({**WHOLE, "status": "diverged", "reason": "nan"}))
    assert store.state(RUN_ID) == ("diverged", "nan")


def test_the_plan_survives_the_round_trip(tmp_path: Path) -> None:
    plan = bench_runs.make_plan(["sam rho=0.1", "b"], seeds=2)
    open_store(tmp_path / "out", plan)
    assert read_plan(tmp_path / "out") == plan
    before = bench_runs.content(tmp_path / "out")
    open_store(tmp_path / "out", plan)
    assert bench_runs.content(tmp_path / "out") == before
    content = json.loads(before["plan.json"])
    assert list(content) == [
        "schema_version",
        "suite",
        "title",
        "reference",
        "text",
        "axes",
        "baseline",
        "runs",
    ]
    assert list(content["runs"][0]) == ["run_id", "label", "condition", "spec"]
    assert [run.spec.id for run in read_plan(tmp_path / "out").runs] == [run.run_id for run in plan.runs]


def test_a_suite_may_grow_and_shrink(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = Settings(execute=bench_runs.EXECUTE)
    for labels, new in ((["a"], 1), (["a", "b"], 1), (["b"], 0), (["a", "b"], 0)):
        assert len(run_plan(bench_runs.make_plan(labels), out, "inline", settings)) == new
        assert read_plan(out).labels == labels


def test_another_suite_is_refused(tmp_path: Path) -> None:
    plan = bench_runs.make_plan(["a"])
    open_store(tmp_path, plan)
    with pytest.raises(
        InvalidInput, match="holds the runs of suite 'made', not of 'other'; choose another --out"
    ):
        open_store(tmp_path, plan.model_copy(update={"suite": "other"}))
    assert read_plan(tmp_path) == plan


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InvalidInput, match="has files but no plan.json"):
        open_store(tmp_path, bench_runs.make_plan(["a"]))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="can't be written"):
        open_store(tmp_path / "file" / "out", bench_runs.make_plan(["a"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "suite: Field required"),
        (
            bench_runs.make_plan(["a"]).dump().replace('"schema_version": 1', '"schema_version": 9', 1),
            "version",
        ),
    ],
)
def test_a_damaged_plan_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InvalidInput, match=said) as caught:
        read_plan(tmp_path)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_damaged_plan_is_never_a_traceback(data: st.DataObject) -> None:
    whole = bench_runs.make_plan(["a"]).dump()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    text = whole[:start] + data.draw(st.text(max_size=5)) + whole[stop:]
    said = "plan.json"
    with contextlib.suppress(InvalidInput):
        try:
            parse_plan(text, "plan.json")
        except InvalidInput as error:
            said = str(error)
            raise
    assert said.startswith("plan.json")
    assert "\n" not in said
