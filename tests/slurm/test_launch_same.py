"""One suite through every launcher: the same frames, time columns aside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import required_tools
import slurm_node

from sharpbench.bench.compare import TIMES, difference
from sharpbench.bench.drive import run_plan
from sharpbench.bench.launch import Settings
from sharpbench.bench.plan import Plan
from sharpbench.bench.store import Store
from sharpbench.bench.suite import read_suite
from sharpbench.report.frames import collect

SUITE = """
[task]
epochs = 2
train_fraction = 0.3
[matrix]
seed = [0, 1]
[[optimizer]]
name = "sgd"
[[optimizer]]
name = "sam"
rho = 0.05
[measure]
measures = ["spectrum", "sam_sharpness"]
examples = 64
hvps = 12
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("suite") / "same.toml"
    path.write_text(SUITE)
    return read_suite(path).plan


@pytest.fixture(scope="module")
def inline(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inline") / "out"
    outcomes = run_plan(plan, out, "inline", Settings(device="cpu"))
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    return out


@pytest.fixture
def place(launcher: str) -> Iterator[None]:
    if launcher == "ray":
        required_tools.imported("ray", "pip install 'sharpbench[ray]'")
    if launcher != "slurm":
        yield
        return
    required_tools.imported("submitit", "pip install 'sharpbench[slurm]'")
    with slurm_node.one_node() as reason:
        if reason:
            required_tools.without("slurm", reason)
        yield


# Ray leaves pipes and files of its own processes to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("launcher", ["local", "ray", "slurm"])
def test_the_frames_are_those_of_the_inline_launcher(
    launcher: str, plan: Plan, inline: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    slurm = {"runs": "4", "cpus": "2", "poll": "0.2"}
    outcomes = run_plan(plan, out, launcher, Settings(device="cpu", workers=2, slurm=slurm))
    assert sorted(outcome.run_id for outcome in outcomes) == sorted(run.run_id for run in plan.runs)
    assert {outcome.status for outcome in outcomes} == {"done"}
    for run in plan.runs:
        assert difference(Store(inline).directory(run.run_id), Store(out).directory(run.run_id)) is None
    expected, got = collect(inline), collect(out)
    for name in ("runs", "history", "measures", "densities"):
        one, other = (without_times(getattr(frames, name)) for frames in (expected, got))
        assert len(one) > 0
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def without_times(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=[column for column in frame.columns if column in TIMES])
