"""`sharpbench measure`: a run gives its own numbers again; a checkpoint gives a table; bad input one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from sharpbench.bench.run import execute
from sharpbench.cli.measuring import measure
from sharpbench.errors import InvalidInput
from sharpbench.models import build_model
from sharpbench.spec import MeasureSpec, OptimizerSpec, RunSpec, TaskSpec

app = typer.Typer()
app.command()(measure)


def _call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    spec = RunSpec(
        task=TaskSpec(epochs=1, label_noise=0.2, train_fraction=0.3),
        optimizer=OptimizerSpec(name="sgd", label="sgd"),
        measure=MeasureSpec(examples=64, hvps=20),
    )
    assert execute(spec, directory) == "done"
    return directory


def test_a_run_is_measured_again_to_the_same_numbers(run_directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    result = _call(run_directory, "--out", out)
    assert result.exit_code == 0, result.output
    assert "trace" in result.output
    kept = pd.read_parquet(run_directory / "measures.parquet")
    again = pd.read_parquet(out)
    assert list(again["measure"]) == list(kept["measure"])
    assert again["value"].to_numpy() == pytest.approx(kept["value"].to_numpy(), rel=1e-6, nan_ok=True)


def test_a_checkpoint_and_chosen_groups(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(build_model("mlp", (1, 8, 8), 10).state_dict(), path)
    result = _call(path, "--model", "mlp", "--measure", "capacity", "--examples", 32)
    assert result.exit_code == 0, result.output
    assert "weight_norm" in result.output
    assert "trace" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing",), "does not exist"),
        ((".",), "holds no spec.json"),
        ((__file__,), "needs --model"),
        ((__file__, "--model", "mpl"), "did you mean 'mlp'"),
        ((__file__, "--model", "mlp"), "does not hold the weights|more than tensors"),
        ((".", "--out", "table.txt"), "must end in"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _call(*arguments)
    assert isinstance(result.exception, InvalidInput)
    assert "\n" not in str(result.exception)
    with pytest.raises(InvalidInput, match=message):
        raise result.exception


def test_a_pickle_with_more_than_tensors_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"model": build_model("mlp", (1, 8, 8), 10)}, path)
    result = _call(path, "--model", "mlp")
    assert isinstance(result.exception, InvalidInput)
    assert "more than tensors" in str(result.exception)
