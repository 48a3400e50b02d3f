"""Prices and ratios: the arithmetic exactly, the measurements as far as they can't depend on the clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bench_bad_suites import GOOD
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sharpbench.bench.price import finished_after, price
from sharpbench.bench.stepping import Stepper
from sharpbench.bench.suite import parse_suite
from sharpbench.bench.timing import COLUMNS, median_interval
from sharpbench.cli import app

DURATIONS = st.lists(st.floats(0.0, 1e6), min_size=1, max_size=40)


@given(DURATIONS, st.integers(1, 50))
def test_list_scheduling_is_within_its_bounds(durations: list[float], devices: int) -> None:
    last = finished_after(durations, devices)
    best = max(max(durations), sum(durations) / devices)
    assert best <= last * (1 + 1e-9)
    assert last <= best * (4 / 3) * (1 + 1e-9) or last <= sum(durations) / devices + max(durations)
    assert finished_after(durations, 1) == pytest.approx(sum(durations))
    assert finished_after(durations, len(durations)) == max(durations)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_the_interval_holds_the_median(values: list[float]) -> None:
    found = median_interval(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_the_interval_of_a_median_covers() -> None:
    generator = np.random.default_rng(0)
    samples = generator.lognormal(size=(400, 21))
    held = [found.low <= 1.0 <= found.high for found in (median_interval(list(s)) for s in samples)]
    assert np.mean(held) >= 0.93


def test_prices_count_what_training_counts(tmp_path: Path) -> None:
    plan = parse_suite(GOOD, "x", "x.toml")
    kinds: list[str] = []
    prices = price(plan, seconds=0.0, told=kinds.append)
    assert set(prices) == {run.run_id for run in plan.runs}
    assert len(kinds) == 2, "one kind of step for each optimizer: seeds and noise don't change it"
    for run in plan.runs:
        found = prices[run.run_id]
        batches = Stepper(run.spec).batches
        assert found.gradients == 2 * batches * (2 if run.label == "sam" else 1)
        assert found.seconds > 2 * batches * found.step_seconds > 0


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(GOOD)
    priced = CliRunner().invoke(app, ["validate", "x.toml", "--price", "--device", "cpu"])
    assert priced.exit_code == 0, priced.output
    lines = priced.stdout.splitlines()
    assert lines[-4].endswith("gradient evaluations")
    assert [line.split()[0] for line in lines[-3:]] == ["1", "8", "1000"]
    timed = CliRunner().invoke(app, ["time", "x.toml", "--rounds", "3", "--csv", "t.csv", "--device", "cpu"])
    assert timed.exit_code == 0, timed.output
    frame = pd.read_csv("t.csv")
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame["optimizer"]) == ["sgd", "sam"]
    assert list(frame["gradients"]) == [1.0, 2.0]
    assert (frame["ratio_low"] <= frame["ratio"]).all()
    assert (frame["ratio"] <= frame["ratio_high"]).all()
    assert sorted(path.name for path in Path().iterdir()) == ["t.csv", "x.toml"]


def test_doctor_of_a_healthy_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert {"python", "devices", "cores", "disk"} <= {
        line.split()[1] for line in result.stdout.splitlines()
    } | {line.split()[1].split(":")[0].replace("cuda", "devices") for line in result.stdout.splitlines()}
    assert list(tmp_path.iterdir()) == []
