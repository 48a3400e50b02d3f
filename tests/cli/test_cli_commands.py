"""Every verb of the command line, for real, on suites of seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_bad_suites import BAD, GOOD
from typer.testing import CliRunner, Result

import sharpbench
from sharpbench.bench.inventory import sealed
from sharpbench.bench.store import Store, read_plan
from sharpbench.cli import app
from sharpbench.data import DATASETS
from sharpbench.models import MODELS
from sharpbench.optim.registry import OPTIMIZERS
from sharpbench.sharpness import MEASURES

ROOT = Path(sharpbench.__file__).parent.parent
# 2 optimizers x 2 levels of noise x 2 seeds, an epoch each.
SMALL = GOOD.replace("epochs = 2", "epochs = 1")
USERS_OWN = """
import torch
class Mine(torch.optim.SGD):
    def __init__(self, base):
        super().__init__(base.param_groups, lr=0.1)
class Broken(Mine):
    def step(self, closure):
        raise RuntimeError("I am broken")
"""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def command(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "sharpbench.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "MPLBACKEND": "Agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def everything_below(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A small suite, run once for all tests that look at its output."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "small.toml").write_text(SMALL)
    result = call(
        "run", folder / "small.toml", "--out", folder / "out", "--launcher", "inline", "--device", "cpu"
    )
    return folder / "out", result


def test_run_prints_the_leaderboard_and_the_page(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Good"
    assert lines[1] == "8 runs to do, 0 finished before"
    ended = [line for line in lines if "] done " in line]
    assert len(ended) == 8
    assert ended[-1].startswith("[8/8] done")
    assert all("test accuracy" in line for line in ended)
    assert Path(lines[-1]) == out / "report" / "index.html"
    assert (out / "report" / "index.html").stat().st_size > 10_000
    table = "\n".join(lines[10:])
    assert "sam" in table
    assert "sgd" in table
    plan = read_plan(out)
    for run in plan.runs:
        result_file = Store(out).result(run.run_id)
        assert result_file is not None
        assert result_file["status"] == "done"


def test_run_again_repeats_nothing(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    stamps = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*.*") if path.is_file()}
    result = call("run", out.parent / "small.toml", "--out", out, "--quiet")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [str(out / "report" / "index.html")]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_status(finished: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = finished
    result = call("status", out)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "8 runs planned: 8 done"
    copy = tmp_path / "out"
    subprocess.run(["cp", "-r", str(out), str(copy)], check=True)
    runs = read_plan(copy).runs
    directories = [Store(copy).directory(run.run_id) for run in runs]
    (directories[0] / "result.json").unlink()
    (directories[1] / "result.json").unlink()
    with (directories[3] / "history.parquet").open("ab") as history:
        history.truncate(100)
    (directories[4] / "model.safetensors").unlink()
    (directories[1] / "error.log").write_text("Traceback\nOSError: the disk is [full]\n")
    diverged = json.loads((directories[2] / "result.json").read_text())
    (directories[2] / "result.json").write_text(
        json.dumps(sealed({**diverged, "status": "diverged", "reason": "nan"}))
    )
    result = call("status", copy)
    lines = result.stdout.splitlines()
    short = f"{runs[3].run_id}  {runs[3].title}: history.parquet has 100 bytes, not "
    gone = f"{runs[4].run_id}  {runs[4].title}: model.safetensors is missing"
    assert lines[-7:-5] == [
        "8 runs planned: 3 done, 1 diverged, 1 failed, 2 damaged, 1 missing",
        f"  failed  {runs[1].run_id}  {runs[1].title}: OSError: the disk is [full]",
    ]
    assert lines[-5].startswith(f"  damaged  {short}")
    assert lines[-4] == f"  damaged  {gone}"
    assert lines[-3] == f"  diverged  {runs[2].run_id}  {runs[2].title}: nan"
    assert "--retry-failed" in lines[-2]
    lines = call("status", copy, "--lines", 5).stdout.splitlines()
    assert lines[-7:-5] == ["    Traceback", "    OSError: the disk is [full]"]


def test_report(finished: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = finished
    result = call("report", out, "--out", tmp_path / "mailed")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(tmp_path / "mailed" / "index.html")
    assert (tmp_path / "mailed" / "leaderboard.csv").is_file()


@pytest.mark.parametrize("verb", ["status", "report"])
def test_a_folder_without_a_plan(verb: str, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        result = call(verb, folder)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "plan.json" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("verb", ["run", "validate"])
@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line_and_writes_nothing(
    name: str, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text, said = BAD[name]
    Path("x.toml").write_text(text)
    result = call(verb, "x.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: x.toml: ")
    assert said[0] in line
    assert everything_below(Path()) == [Path("x.toml")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "quickstart", "--workers", "0"],
        ["run", "quickstart", "--launcher", "slrum"],
        ["run", "quickstart", "--device", "tpu"],
        ["run", "quickstart", "--device", "cuda"],
        ["run", "quickstart", "--no-such-option"],
        ["run", "quickstart", "--optimizer", "no_such_module_here:Mine"],
        ["run", "quikstart"],
        ["validate", "no/such/file.toml"],
        ["list", "optimisers"],
        ["demo", "asymmetric"],
        ["no-such-verb"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_exit_code_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert everything_below(tmp_path) == []


def test_another_suites_directory_is_refused(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    before = (out / "plan.json").read_bytes()
    result = call("run", "quickstart", "--out", out)
    assert result.exit_code == 2
    assert "holds the runs of suite 'small', not of 'quickstart'" in result.stderr
    assert (out / "plan.json").read_bytes() == before


def test_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("validate", "quickstart")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "36 runs: 6 optimizers, 2 conditions, 3 seeds; baseline sgd"
    assert "frob_sam" in result.stdout
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("optimizers", list(OPTIMIZERS)),
        ("measures", list(MEASURES)),
        ("models", list(MODELS)),
        ("datasets", list(DATASETS)),
        ("suites", ["digits", "quickstart"]),
    ],
)
def test_list(kind: str, names: list[str]) -> None:
    plain = call("list", kind)
    assert plain.exit_code == 0
    assert all(name in plain.stdout for name in names)
    listed = json.loads(call("list", kind, "--json").stdout)
    assert [entry["name"] for entry in listed] == names
    assert all(isinstance(entry["summary"], str) for entry in listed)


def test_list_optimizers_gives_defaults() -> None:
    listed = {entry["name"]: entry for entry in json.loads(call("list", "optimizers", "--json").stdout)}
    assert listed["sam"]["parameters"]["rho"] == 0.05


@pytest.mark.parametrize("name", ["asymmetric-valley", "adversarial-model"])
def test_demo(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("demo", name)
    assert result.exit_code == 0, result.output
    figures = [Path(line) for line in result.stdout.splitlines() if line.endswith(".png")]
    assert figures
    assert all(figure.is_file() for figure in figures)
    assert {path.parent for path in figures} == {Path("runs") / f"demo-{name}"}


def test_version() -> None:
    assert call("version").stdout.startswith(f"sharpbench {sharpbench.__version__} (torch ")


def test_an_optimizer_of_the_users_own_and_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "users_own.py").write_text(USERS_OWN)
    (tmp_path / "small.toml").write_text(SMALL.replace("seed = [0, 1]\nlabel_noise = [0, 0.5]", "seed = 0"))
    own = ["--optimizer", "users_own:Mine", "--optimizer", "users_own:Broken"]
    result = call("run", "small.toml", "--launcher", "inline", *own)
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert "FAILED" in said[0]
    assert "RuntimeError: I am broken" in said[0]
    assert said[-2] == "1 of 4 runs failed (the others are kept; --retry-failed runs them again):"
    assert said[-1].endswith("Broken · dataset=digits · model=mlp · seed 0: RuntimeError: I am broken")
    assert "Mine" in result.stdout
    out = Path("runs/small")
    assert [Store(out).state(run.run_id)[0] for run in read_plan(out).runs] == [
        "done",
        "done",
        "done",
        "failed",
    ]
    assert call("run", "small.toml", "--quiet").exit_code == 0, "without the broken one all is done"


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = "{'torch', 'pandas', 'matplotlib', 'pydantic'}"
    code = f"import sys, sharpbench.cli; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.strip() == "[]"
    process = command("--help", cwd=tmp_path)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert all(verb in output for verb in ("run", "status", "report", "validate", "list", "demo", "version"))


def test_reading_a_suite_does_not_load_its_data_library() -> None:
    code = (
        "import sys, sharpbench.bench.suite as s; s.read_suite('quickstart'); print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", done.stdout


def test_ctrl_c_keeps_what_is_done_and_run_goes_on(tmp_path: Path, finished: tuple[Path, Result]) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    process = command("run", "small.toml", "--workers", 1, "--device", "cpu", cwd=tmp_path)
    out = tmp_path / "runs" / "small"
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/*/result.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.split() == ["interrupted"]
    done = {path: path.read_bytes() for path in out.glob("runs/*/result.json")}
    assert 0 < len(done) < 8
    result = call("run", tmp_path / "small.toml", "--out", out, "--launcher", "inline", "--device", "cpu")
    assert result.exit_code == 0
    assert f"{8 - len(done)} runs to do, {len(done)} finished before" in result.stdout
    assert {path: path.read_bytes() for path in done} == done
    assert len(list(out.glob("runs/*/result.json"))) == 8
    # The same bytes as without the interruption, in worker processes or not.
    for run in read_plan(out).runs:
        mine, other = (Store(where).directory(run.run_id) for where in (out, finished[0]))
        assert (mine / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
        results = [json.loads((directory / "result.json").read_text()) for directory in (mine, other)]
        assert results[0]["metrics"] == results[1]["metrics"]
