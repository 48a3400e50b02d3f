"""The source of one's own optimizer is part of what its results are: edits are noticed, mixtures named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sharpbench.bench.diagnosis import diagnose
from sharpbench.bench.drive import run_plan
from sharpbench.bench.inventory import inventory, sealed
from sharpbench.bench.launch import Outcome, Settings
from sharpbench.bench.merge import merge
from sharpbench.bench.plan import Plan
from sharpbench.bench.run import execute
from sharpbench.bench.store import Store
from sharpbench.bench.suite import parse_suite
from sharpbench.cli import app
from sharpbench.errors import Interrupted, InvalidInput
from sharpbench.files import write_json
from sharpbench.report.frames import collect
from sharpbench.source import read_source
from sharpbench.training import interrupt

OPTIMIZER = """
from sharpbench.optim import SAM

class Mine(SAM):
    def __init__(self, base, *, rho=0.05, **common):
        from .radius import FACTOR
        super().__init__(base, rho=FACTOR * rho, **common)
"""
SUITE = """
[task]
epochs = 1
train_fraction = 0.1
[matrix]
seed = [0, 1]
[[optimizer]]
name = "sgd"
[[optimizer]]
name = "mine_pkg.mine:Mine"
[measure]
measures = ["sam_sharpness"]
examples = 16
"""
NAME = "mine_pkg.mine:Mine"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of one optimizer on the path, forgotten afterwards."""
    folder = tmp_path / "code" / "mine_pkg"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "mine.py").write_text(OPTIMIZER)
    (folder / "radius.py").write_text("FACTOR = 1.0\n")
    (folder / "other.py").write_text("NOT_IMPORTED = 1\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine_pkg"]:
        del sys.modules[name]


def plan() -> Plan:
    return parse_suite(SUITE, "small", "small.toml")


def go(out: Path, **options: str) -> tuple[list[Outcome], list[str]]:
    told: list[str] = []
    outcomes = run_plan(plan(), out, "inline", Settings(notice=told.append), **options)  # type: ignore[arg-type]
    return outcomes, told


def result_of(out: Path, place: int) -> dict[str, object]:
    run = plan().runs[place]
    content: dict[str, object] = json.loads((Store(out).directory(run.run_id) / "result.json").read_text())
    return content


def forget_source(out: Path, place: int) -> None:
    """As an earlier version of sharpbench wrote it."""
    directory = Store(out).directory(plan().runs[place].run_id)
    provenance = json.loads((directory / "provenance.json").read_text())
    provenance.pop("optimizer_source", None)
    write_json(directory / "provenance.json", provenance)
    result = json.loads((directory / "result.json").read_text())
    result.pop("optimizer_source", None)
    write_json(directory / "result.json", sealed({**result, "files": inventory(directory)}))


def test_an_edit_runs_that_method_again_and_nothing_else(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, told = go(out)
    assert (len(first), told) == (4, [])
    old = read_source("mine_pkg.mine").digest
    assert [result_of(out, place).get("optimizer_source") for place in range(4)] == [None, None, old, old]
    assert go(out) == ([], [])
    (package / "other.py").write_text("NOT_IMPORTED = 2\n")
    assert go(out) == ([], [])
    before = [result_of(out, place) for place in range(4)]

    (package / "radius.py").write_text("FACTOR = 3.0\n")
    outcomes, told = go(out)
    new = read_source("mine_pkg.mine").digest
    assert {outcome.run_id for outcome in outcomes} == {run.run_id for run in plan().runs[2:]}
    assert told == [
        f"{NAME}: its source has changed ({old} -> {new}) since 2 runs ended; they are run again, the old "
        f"results are in {out / 'replaced'}"
    ]
    after = [result_of(out, place) for place in range(4)]
    assert after[:2] == before[:2]
    assert all(result["optimizer_source"] == new for result in after[2:])
    # What ran is what the file says: three times the radius.
    assert after[2]["metrics"] != before[2]["metrics"]
    kept = json.loads((out / "replaced" / f"{before[2]['run_id']}-{old}" / "result.json").read_text())
    assert kept == before[2]
    assert go(out) == ([], [])
    assert collect(out).problems == ()


def test_worker_processes_record_the_same(package: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    go(here)
    run_plan(plan(), there, "local", Settings(workers=2))
    assert result_of(here, 3)["optimizer_source"] == result_of(there, 3)["optimizer_source"]
    assert merge(tmp_path / "both", [here, there]).notes == []


def test_a_file_edited_during_a_run_is_recorded_as_it_ran(package: Path, tmp_path: Path) -> None:
    source = OPTIMIZER + (
        "    def begin_step(self):\n"
        "        super().begin_step()\n"
        f"        with open({str(package / 'mine.py')!r}, 'a') as file:\n"
        "            file.write('# later')\n"
    )
    (package / "mine.py").write_text(source)
    before = read_source("mine_pkg.mine").digest
    run = plan().runs[2]
    execute(run.spec, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["optimizer_source"] == before
    assert read_source("mine_pkg.mine").digest != before


def test_a_part_that_was_edited_before_it_was_imported_is_unknown(package: Path, tmp_path: Path) -> None:
    spec = plan().runs[2].spec  # checks the optimizer, which imports radius
    del sys.modules["mine_pkg.mine"], sys.modules["mine_pkg.radius"]
    from sharpbench.source import load_module, loaded_digest

    load_module("mine_pkg.mine")
    assert loaded_digest("mine_pkg.mine") == read_source("mine_pkg.mine").digest
    (package / "radius.py").write_text("FACTOR = 2.0\n")
    execute(spec, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["optimizer_source"] == "unknown"


def test_results_without_a_digest_stay_and_it_is_said(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(out)
    forget_source(out, 2)
    forget_source(out, 3)
    outcomes, told = go(out)
    assert outcomes == []
    assert told == [f"{NAME}: 2 results don't say which version of its source made them; they stay"]
    note = f"2 results of {NAME} don't say which source made them"
    assert collect(out).problems == (note,)
    assert any(finding.text == note for finding in diagnose(out))


def test_they_can_be_kept_and_then_everything_says_so(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(out)
    old = read_source("mine_pkg.mine").digest
    run = plan().runs[3]
    shutil.rmtree(Store(out).directory(run.run_id))
    (package / "radius.py").write_text("FACTOR = 3.0\n")
    new = read_source("mine_pkg.mine").digest
    outcomes, told = go(out, other_version="accept")
    assert [outcome.run_id for outcome in outcomes] == [run.run_id]
    assert told == [
        f"{NAME}: its source has changed ({old} -> {new}) since 1 runs ended; they stay, and the report "
        "says so"
    ]
    versions = ", ".join(f"1 by {digest}" for digest in sorted([old, new]))
    note = f"results of {NAME} are of different versions of its source: {versions}"
    assert note in collect(out).problems
    said = CliRunner().invoke(app, ["status", str(out)]).stdout
    assert note in said
    assert f"1 results of {NAME} were made by another version of its source than there is now ({new})" in said
    assert note in CliRunner().invoke(app, ["doctor", str(out)]).stdout


def test_a_run_that_failed_is_tried_again_after_the_mend(package: Path, tmp_path: Path) -> None:
    good = (package / "mine.py").read_text()
    (package / "mine.py").write_text(good + "    def begin_step(self):\n        raise ZeroDivisionError\n")
    out = tmp_path / "out"
    assert [outcome.status for outcome in go(out)[0]].count("failed") == 2
    assert [outcome.here for outcome in go(out)[0]] == [False, False]
    (package / "mine.py").write_text(good)
    assert [outcome.status for outcome in go(out)[0]] == ["done", "done"]


def test_a_checkpoint_of_another_source_is_not_continued(package: Path, tmp_path: Path) -> None:
    spec = plan().runs[2].spec
    interrupt.request_stop()
    with pytest.raises(Interrupted):
        execute(spec, tmp_path / "stopped")
    interrupt.clear()
    (package / "radius.py").write_text("FACTOR = 3.0\n")
    spec = plan().runs[2].spec
    execute(spec, tmp_path / "stopped")
    execute(spec, tmp_path / "whole")
    results = [json.loads((tmp_path / p / "result.json").read_text()) for p in ("stopped", "whole")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["optimizer_source"] == results[1]["optimizer_source"]


def test_merging_different_versions_is_refused_by_name(package: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    go(one)
    (package / "radius.py").write_text("FACTOR = 3.0\n")
    go(two)
    with pytest.raises(InvalidInput) as caught:
        merge(tmp_path / "all", [one, two])
    assert f"{NAME} has different sources: {one}" in str(caught.value)
    assert "--mixed-sources" in str(caught.value)
    assert not (tmp_path / "all").exists()
    # Other runs of the same method: nothing conflicts but the source.
    runs = plan().runs
    shutil.rmtree(Store(one).directory(runs[2].run_id))
    shutil.rmtree(Store(two).directory(runs[3].run_id))
    said = CliRunner().invoke(app, ["merge", str(tmp_path / "all"), str(one), str(two)])
    assert said.exit_code == 2
    assert "has different sources" in said.stderr
    joined = CliRunner().invoke(app, ["merge", str(tmp_path / "all"), str(one), str(two), "--mixed-sources"])
    assert joined.exit_code == 0
    assert "are of different versions of its source: 1 by" in joined.stderr
    assert any("different versions of its source" in line for line in collect(tmp_path / "all").problems)


def test_merging_with_results_of_before_is_noted(package: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    go(one)
    shutil.copytree(one, two)
    forget_source(one, 2)
    merged = merge(tmp_path / "all", [one, two])
    assert len(merged.same) == 4
    (note,) = merged.notes
    assert "different versions of its source" in note
    assert "1 by unknown" in note


def test_a_fresh_process_does_not_run_stale_bytecode(package: Path) -> None:
    """Python tells bytecode from source by seconds and size; an edit in the same second keeps both."""
    code = (
        "from sharpbench.source import load_module, loaded_digest; "
        "print(load_module('mine_pkg.radius').FACTOR, loaded_digest('mine_pkg.radius'))"
    )

    def fresh() -> list[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), *sys.path])}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    file = package / "radius.py"
    second = 1_700_000_000
    os.utime(file, (second, second))
    assert fresh()[0] == "1.0"
    bytecode = next((package / "__pycache__").glob("radius.*"))
    os.utime(bytecode, (second, second))
    file.write_text("FACTOR = 2.0\n")
    os.utime(file, ns=(second * 10**9 + 5, second * 10**9 + 5))
    assert fresh() == ["2.0", read_source("mine_pkg.radius").digest]


def files_below(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_what_belongs_to_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files_below(
        tmp_path,
        {
            "own_pkg/__init__.py": "from .shared import base\n",
            "own_pkg/shared/__init__.py": "",
            "own_pkg/shared/base.py": "import os, numpy, torch, sharpbench.optim\n",
            "own_pkg/sub/__init__.py": "",
            "own_pkg/sub/opt.py": (
                "def step():\n    from .. import lazy\n    from ..deep.er import thing\n"
                "    import importlib\n    importlib.import_module('own_pkg.by_name')\n"
                "    import beside\n"
            ),
            "own_pkg/lazy.py": "from own_pkg.sub import opt\n",
            "own_pkg/deep/er.py": "def thing(): ...\n",
            "own_pkg/by_name.py": "syntax error here\n",
            "own_pkg/unused.py": "",
            "beside.py": "import beside_too\n",
            "beside_too.py": "import json\n",
            "single.py": "import beside\n",
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = read_source("own_pkg.sub.opt")
    assert set(found.files) == {
        "own_pkg", "own_pkg.shared", "own_pkg.shared.base", "own_pkg.sub", "own_pkg.sub.opt", "own_pkg.lazy",
        "own_pkg.deep.er", "own_pkg.by_name", "beside", "beside_too",
    }  # fmt: skip
    assert set(read_source("single").files) == {"single", "beside", "beside_too"}
    assert "own_pkg.sub.opt" not in sys.modules
    digest = found.digest
    (tmp_path / "beside_too.py").write_text("import json  # \n")
    assert read_source("own_pkg.sub.opt").digest != digest
    assert read_source("__main__").digest == "unknown"


def test_in_site_packages_only_the_own_package_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    files_below(
        folder,
        {
            "their_pkg/__init__.py": "from . import sam\nimport unrelated\n",
            "their_pkg/sam.py": "import unrelated\n",
            "unrelated.py": "",
            "alone.py": "import unrelated\n",
        },
    )
    monkeypatch.syspath_prepend(str(folder))
    assert set(read_source("their_pkg.sam").files) == {"their_pkg", "their_pkg.sam"}
    assert set(read_source("alone").files) == {"alone"}
