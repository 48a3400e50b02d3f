"""Merging: everything once, conflicts by name, nothing half-copied."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bench_bad_suites import GOOD
from typer.testing import CliRunner

from sharpbench.bench.compare import difference
from sharpbench.bench.drive import run_plan
from sharpbench.bench.inventory import inventory, sealed
from sharpbench.bench.launch import Settings
from sharpbench.bench.merge import merge
from sharpbench.bench.store import Store, open_store, read_plan
from sharpbench.bench.suite import parse_suite
from sharpbench.cli import app
from sharpbench.errors import InvalidInput
from sharpbench.files import write_json

PLAN = parse_suite(GOOD.replace("epochs = 2", "epochs = 1").replace("[0, 1]", "0"), "small", "small.toml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merge") / "out"
    run_plan(PLAN, out, "inline", Settings())
    return out


def part(whole: Path, out: Path, places: list[int]) -> Path:
    """An output directory with some of the runs."""
    store = open_store(out, PLAN)
    for place in places:
        run_id = PLAN.runs[place].run_id
        shutil.copytree(Store(whole).directory(run_id), store.directory(run_id))
    return out


def rewritten(directory: Path, **changes: object) -> None:
    """The result with other entries, its record of the files brought up to date."""
    path = directory / "result.json"
    content = json.loads(path.read_text())
    write_json(path, sealed({**content, **changes, "files": inventory(directory)}))


def states(out: Path) -> list[str]:
    return [Store(out).state(run.run_id)[0] for run in PLAN.runs]


def test_parts_become_one(whole: Path, tmp_path: Path) -> None:
    one, two = part(whole, tmp_path / "one", [0, 1]), part(whole, tmp_path / "two", [1, 2])
    rewritten(Store(two).directory(PLAN.runs[1].run_id), wall_seconds=99.0, train_seconds=98.0)
    (Store(two).directory(PLAN.runs[3].run_id)).mkdir()
    (Store(two).directory(PLAN.runs[3].run_id) / "error.log").write_text("OSError: no luck\n")
    merged = merge(tmp_path / "all", [one, two])
    ids = [run.run_id for run in PLAN.runs]
    assert set(merged.copied) == set(ids[:3])
    assert merged.same == [ids[1]]
    assert list(merged.failed) == merged.missing == [ids[3]]
    assert states(tmp_path / "all") == ["done", "done", "done", "failed"]
    for place in range(3):
        directories = [Store(out).directory(ids[place]) for out in (whole, tmp_path / "all")]
        assert inventory(directories[0]) == inventory(directories[1])
    assert read_plan(tmp_path / "all") == PLAN
    again = merge(tmp_path / "all", [one, two])
    assert again.copied == {}
    assert not any(path.name.startswith(".") for path in (tmp_path / "all" / "runs").iterdir())


def test_conflicting_results_are_refused_with_both_named(whole: Path, tmp_path: Path) -> None:
    one, two = part(whole, tmp_path / "one", [0]), part(whole, tmp_path / "two", [0])
    directory = Store(two).directory(PLAN.runs[0].run_id)
    metrics = json.loads((directory / "result.json").read_text())["metrics"]
    rewritten(directory, metrics={**metrics, "test_loss": metrics["test_loss"] + 1e-15})
    with pytest.raises(InvalidInput) as caught:
        merge(tmp_path / "all", [one, two])
    said = str(caught.value)
    assert str(Store(one).directory(PLAN.runs[0].run_id)) in said
    assert str(directory) in said
    assert "result.json, metrics" in said
    assert "remove the one that is wrong" in said
    assert not (tmp_path / "all").exists()
    # Neither is wrong if they come from processors of different kinds.
    place = json.loads((directory / "provenance.json").read_text())
    write_json(directory / "provenance.json", {**place, "instructions": "ANOTHER"})
    rewritten(directory)
    with pytest.raises(InvalidInput, match="and ANOTHER instructions agree to rounding only: remove either"):
        merge(tmp_path / "all", [one, two])


@pytest.mark.parametrize("name", ["history.parquet", "model.safetensors", "labels.parquet"])
def test_damage_is_left_out_by_name(whole: Path, tmp_path: Path, name: str) -> None:
    one = part(whole, tmp_path / "one", [0, 1])
    path = Store(one).directory(PLAN.runs[0].run_id) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "all"), str(one)])
    assert result.exit_code == 1
    assert f"{name} is not the file that was written" in result.stderr
    assert states(tmp_path / "all") == ["missing", "done", "missing", "missing"]
    checked = CliRunner().invoke(app, ["doctor", str(one)])
    assert checked.exit_code == 1
    assert f"{name} is not the file that was written" in checked.stdout


def test_another_suite_is_refused(whole: Path, tmp_path: Path) -> None:
    open_store(tmp_path / "other", PLAN.model_copy(update={"suite": "other"}))
    with pytest.raises(InvalidInput, match="suite is 'other' there and 'small' here"):
        merge(tmp_path / "all", [whole, tmp_path / "other"])
    with pytest.raises(InvalidInput, match="no readable plan.json"):
        merge(tmp_path / "all", [tmp_path / "nothing"])
    with pytest.raises(InvalidInput, match="nothing to merge"):
        merge(tmp_path / "all", [])


def test_the_plans_are_united(whole: Path, tmp_path: Path) -> None:
    less = PLAN.model_copy(update={"runs": PLAN.runs[:2]})
    open_store(tmp_path / "less", less)
    merge(tmp_path / "less", [whole])
    assert read_plan(tmp_path / "less").runs == PLAN.runs
    assert states(tmp_path / "less") == ["done"] * 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("measures.parquet", "column value, differs in row 1"),
        ("history.parquet", "column lr, differs in row 1"),
    ],
)
def test_the_first_difference_is_named(whole: Path, tmp_path: Path, name: str, said: str) -> None:
    import pandas as pd

    one = Store(whole).directory(PLAN.runs[0].run_id)
    other = Path(shutil.copytree(one, tmp_path / "other"))
    assert difference(one, other) is None
    frame = pd.read_parquet(other / name)
    timed = "seconds" if name.startswith("measures") else "wall_seconds"
    frame[timed] += 1.0
    frame.to_parquet(other / name, index=False)
    assert difference(one, other) is None
    column = said.split()[1].rstrip(",")
    frame.loc[0, column] += 1e-9
    frame.to_parquet(other / name, index=False)
    assert difference(one, other) == f"{name}, {said}"
    (other / name).unlink()
    assert difference(one, other) == f"{name} is in only one of them"
