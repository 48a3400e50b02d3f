"""One training and one run: repeatable to the bit, honest about divergence, streams kept apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sharpbench.bench.progress import Progress
from sharpbench.bench.run import execute
from sharpbench.errors import RunFailed
from sharpbench.optim.base import SharpnessAware
from sharpbench.spec import RunSpec, TaskSpec
from sharpbench.training.batch import batch_losses
from sharpbench.training.evaluate import evaluate
from sharpbench.training.feed import Examples
from sharpbench.training.schedules import factor
from sharpbench.training.streams import global_stream, stream, stream_seed


def spec(**changes: Any) -> RunSpec:
    task = {"epochs": 2, "lr": 0.05, "train_fraction": 0.2, "label_noise": 0.5} | changes.pop("task", {})
    optimizer = {"name": "infosam", "label": "infosam", "parameters": {"rho": 0.1}} | changes.pop(
        "optimizer", {}
    )
    measure = {"hvps": 20, "examples": 64} | changes.pop("measure", {})
    return RunSpec(task=task, optimizer=optimizer, measure=measure, **changes)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_a_run_is_a_function_of_its_spec(tmp_path: Path, model: str) -> None:
    torch.manual_seed(1)
    assert execute(spec(task={"model": model}), tmp_path / "a") == "done"
    torch.manual_seed(2)
    torch.randn(100)  # whatever happened before in the process
    assert execute(spec(task={"model": model}), tmp_path / "b") == "done"
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[k], second[k]) for k in first)
    for name in ("history", "measures", "density", "labels"):
        one, two = (pd.read_parquet(tmp_path / d / f"{name}.parquet") for d in "ab")
        drop = [c for c in ("wall_seconds", "seconds") if c in one]
        pd.testing.assert_frame_equal(one.drop(columns=drop), two.drop(columns=drop))


def test_measuring_never_changes_the_training(tmp_path: Path) -> None:
    execute(spec(), tmp_path / "a")
    execute(spec(measure={"measures": ("sam_sharpness",), "examples": 32}), tmp_path / "b")
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_result_and_history_agree(tmp_path: Path) -> None:
    heard: list[Progress] = []
    run = spec(optimizer={"name": "sam", "label": "sam"})
    execute(run, tmp_path, heard.append)
    result = json.loads((tmp_path / "result.json").read_text())
    history = pd.read_parquet(tmp_path / "history.parquet")
    assert result["run_id"] == run.id
    assert result["gradient_evaluations"] == 2 * result["steps"] == history["gradient_evaluations"].iloc[-1]
    assert result["metrics"]["test_accuracy"] == history["test_accuracy"].iloc[-1]
    metrics = result["metrics"]
    p, correct = 0.5, metrics["test_accuracy"]
    assert metrics["noisy_test_accuracy"] == pytest.approx(
        correct * (1 - p) + (1 - correct) * p / 9, abs=1e-6
    )
    assert metrics["accuracy_gap"] == metrics["train_accuracy"] - metrics["noisy_test_accuracy"]
    assert [h.epoch for h in heard if h.stage == "training"] == [1, 2]
    assert heard[-1].stage == "measuring"


def test_divergence_is_a_result(tmp_path: Path) -> None:
    run = spec(task={"lr": 1e8}, optimizer={"name": "sgd", "label": "sgd", "parameters": {}})
    assert execute(run, tmp_path) == "diverged"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "diverged"
    assert "loss became" in result["reason"]
    assert result["metrics"] is None
    assert not (tmp_path / "measures.parquet").exists()


def test_bad_parameters_fail_the_run_with_their_reason(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="rho must be a number"):
        execute(spec(optimizer={"parameters": {"rho": -1.0}}), tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("name", ["lazy", "frob_sam", "ssam_d"])
def test_random_optimizers_follow_the_runs_seed(tmp_path: Path, name: str) -> None:
    chosen = {"name": name, "label": name, "parameters": {}}
    for seed in (0, 1):
        execute(spec(seed=seed, optimizer=chosen), tmp_path / str(seed))
    first, second = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert any(not torch.equal(first[k], second[k]) for k in first)


def test_expected_loss_under_label_noise_is_that_of_soft_targets() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    x, y = torch.randn(30, 5).double(), torch.randint(0, 4, (30,))
    log_p = model(x).log_softmax(1)
    expected = -(0.7 * log_p.gather(1, y[:, None]).squeeze(1))
    for other in range(1, 4):
        expected = expected - 0.1 * log_p.gather(1, ((y + other) % 4)[:, None]).squeeze(1)
    loss, _ = evaluate(model, Examples(x, y), label_noise=0.3)
    assert loss == pytest.approx(expected.mean().item())
    plain, accuracy = evaluate(model, Examples(x, y))
    assert plain == pytest.approx(nn.functional.cross_entropy(model(x), y).item())
    assert accuracy == pytest.approx((log_p.argmax(1) == y).double().mean().item())


def test_evaluation_puts_the_training_flag_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model.train()
    evaluate(model, Examples(torch.randn(8, 3), torch.zeros(8, dtype=torch.int64)))
    assert model.training
    assert model[0].num_batches_tracked.item() == 0


def test_streams_do_not_depend_on_each_other_or_on_the_global_one() -> None:
    assert stream_seed(0, "order") != stream_seed(0, "init") != stream_seed(1, "init")
    before = torch.get_rng_state()
    with global_stream(0, "init"):
        first = torch.randn(3)
    assert torch.equal(before, torch.get_rng_state())
    with global_stream(0, "init"):
        assert torch.equal(first, torch.randn(3))
    assert torch.equal(torch.rand(2, generator=stream(0, "x")), torch.rand(2, generator=stream(0, "x")))


def test_cosine_ends_near_zero() -> None:
    assert factor("cosine", 99, 100) < 1e-3


def test_augmented_and_in_parts_it_is_still_a_function_of_its_spec(tmp_path: Path) -> None:
    task = {"model": "small_cnn", "augmentation": ("crop", "flip", "cutout"), "channels_last": True}
    task |= {"micro_batches": 3, "precision": "bfloat16", "label_smoothing": 0.1, "evaluate_every": 2}
    for name in "ab":
        execute(spec(task=task), tmp_path / name)
    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(first[k], second[k]) for k in first)
    history = pd.read_parquet(tmp_path / "a" / "history.parquet")
    assert history["test_loss"].isna().tolist() == [True, False]
    execute(spec(task={"model": "small_cnn"}), tmp_path / "plain")
    assert any(not torch.equal(first[k], v) for k, v in weights(tmp_path / "plain").items())


def test_parts_of_a_mini_batch_average_to_the_whole() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(11, 4).double(), torch.randint(0, 3, (11,))
    gradients = []
    for parts in (1, 4):
        optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.0))
        closures = batch_losses(model, optimizer, x, y, TaskSpec(micro_batches=parts))
        assert len(closures) == parts
        loss = optimizer.step(closures)
        gradients.append([loss, *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        assert sum(int(c.right) for c in closures if c.right is not None) == (model(x).argmax(1) == y).sum()
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_text_is_trained_on_and_measured(tmp_path: Path) -> None:
    task = {"dataset": "alice", "model": "char_transformer", "label_noise": 0.0, "train_fraction": 0.05}
    measure = {"hvps": 10, "examples": 8, "measures": ("spectrum",)}
    run = spec(task=task | {"epochs": 1, "validation_fraction": 0.01, "lr": 0.5}, measure=measure)
    assert execute(run, tmp_path) == "done"
    result = json.loads((tmp_path / "result.json").read_text())
    metrics = result["metrics"]
    assert metrics["test_perplexity"] == pytest.approx(math.exp(metrics["test_loss"]))
    assert 1.0 < metrics["test_perplexity"] < 60.0  # fewer than the characters there are
    history = pd.read_parquet(tmp_path / "history.parquet")
    assert history["validation_accuracy"].iloc[-1] == metrics["validation_accuracy"] > 0.1
    measures = pd.read_parquet(tmp_path / "measures.parquet").set_index("measure")["value"]
    assert measures["trace"] > 0


def test_augmenting_a_text_is_refused(tmp_path: Path) -> None:
    task = {"dataset": "alice", "model": "char_transformer", "label_noise": 0.0, "augmentation": ("flip",)}
    with pytest.raises(RunFailed, match="augmentation is for images; 'alice' holds none"):
        execute(spec(task=task), tmp_path)
