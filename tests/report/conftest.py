"""A synthetic output directory in exactly the format of docs/formats.md, with known ingredients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sharpbench.report import Report, render

SIX = ("sgd", "sam", "asam", "infosam", "trace-sam", "frob-sam")
GAIN = {"sgd": 0.0, "sam": 0.04, "asam": 0.03, "infosam": 0.055, "trace-sam": 0.01, "frob-sam": 0.02}


def plan_entry(
    label: str, noise: float, seed: int, condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    task = {"dataset": "digits", "model": "mlp", "epochs": 4, "label_noise": noise, "train_fraction": 0.5}
    spec = {
        "schema_version": 1,
        "seed": seed,
        "task": task,
        "optimizer": {"name": label.split(" ")[0], "label": label, "parameters": {"rho": 0.05}},
        "measure": {"measures": ["spectrum", "sam_sharpness", "universal"], "hvps": 100, "damping": 0.01},
    }
    digest = hashlib.sha256(json.dumps([spec, condition], sort_keys=True).encode()).hexdigest()[:16]
    return {"run_id": digest, "label": label, "condition": condition or {"label_noise": noise}, "spec": spec}


def write_run(
    folder: Path,
    entry: dict[str, Any],
    gain: float,
    rng: np.random.Generator,
    shift: float = 0.0,
    points: int = 201,
) -> None:
    """One finished run: a higher gain is a flatter network that generalizes better."""
    noise = entry["spec"]["task"]["label_noise"]
    folder.mkdir(parents=True)
    test = float(
        np.clip(0.965 - 0.35 * noise + gain * (0.3 + 1.4 * noise) + shift + rng.normal(0, 0.004), 0, 1)
    )
    train = float(np.clip(1.0 - 0.12 * noise - 1.5 * gain * noise - abs(rng.normal(0, 0.003)), 0, 1))
    losses = {"train_loss": 0.02 + 0.5 * noise, "test_loss": 0.02 + 0.5 * noise + 2.0 * (train - test) + 0.05}
    metrics = losses | {
        "train_accuracy": train,
        "clean_train_accuracy": test + 0.5 * (1 - test),
        "test_accuracy": test,
        "accuracy_gap": train - test,
        "loss_gap": losses["test_loss"] - losses["train_loss"],
    }
    scale = 40.0 * np.exp(-25.0 * gain + 1.5 * noise + rng.normal(0, 0.15))
    passes = 1 if entry["label"].startswith("sgd") else 2
    result = {
        "schema_version": 1,
        "run_id": entry["run_id"],
        "status": "done",
        "reason": None,
        "epochs_completed": 4,
        "gradient_evaluations": 60 * passes,
        "steps": 60,
        "wall_seconds": 3.0 + passes,
        "train_seconds": 2.0 * passes,
        "measure_seconds": 3.0 - passes,
        "parameters": 85002,
        "metrics": metrics,
    }
    values = {
        "loss": losses["train_loss"],
        "grad_norm": 0.02 * scale**0.5,
        "trace": 25.0 * scale,
        "frobenius_norm": 6.0 * scale,
        "frobenius_squared": 36.0 * scale**2,
        "log_determinant": 300.0 * np.log1p(scale),
        "lambda_1": 3.0 * scale,
        "lambda_2": 2.0 * scale,
        "lambda_min": -0.05 * scale,
        "sam_sharpness": 0.001 * scale * float(np.exp(rng.normal(0, 0.4))),
        "phi_psi_mu:trace": 25.5 * scale,
        "phi_psi_mu:trace@radius": 27.0 * scale,
    }
    rows = [
        {
            "measure": name,
            "value": value,
            "std_error": 0.01 * abs(value),
            "ci_low": value - 0.02 * abs(value),
            "ci_high": value + 0.02 * abs(value),
            "hvps": 100,
            "gradients": 2,
            "seconds": 0.5,
            "converged": name != "log_determinant",
        }
        for name, value in values.items()
    ]
    pd.DataFrame(rows).to_parquet(folder / "measures.parquet")
    grid = np.linspace(-0.5 * scale**0.5, 3.5 * scale, points)
    bulk = np.exp(-0.5 * (grid / (0.05 * scale + 0.2)) ** 2)
    outliers = sum(2e-3 * np.exp(-0.5 * ((grid - c * scale) / (0.06 * scale)) ** 2) for c in (1.0, 2.0, 3.0))
    density = bulk + outliers
    density = density / (density.sum() * (grid[1] - grid[0]))
    pd.DataFrame({"eigenvalue": grid, "density": density, "std_error": 0.05 * density}).to_parquet(
        folder / "density.parquet"
    )
    epochs = np.arange(1, 5)
    pd.DataFrame(
        {
            "epoch": epochs,
            "train_loss": 2.0 / epochs,
            "train_accuracy": train * (1 - 0.5**epochs),
            "test_loss": 2.2 / epochs,
            "test_accuracy": test * (1 - 0.5**epochs),
            "lr": 0.1 / epochs,
            "gradient_evaluations": 15 * passes * epochs,
            "wall_seconds": 0.5 * epochs,
        }
    ).to_parquet(folder / "history.parquet")
    (folder / "spec.json").write_text(json.dumps(entry["spec"], indent=2))
    versions = {"python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6", "sharpbench": "0.1.0"}
    provenance = {"versions": versions, "device": "cpu", "threads": 1, "started": "2026-01-01T00:00:00Z"}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "result.json").write_text(json.dumps(result))


def write_out(
    out: Path,
    optimizers: Sequence[str] = SIX,
    noises: Sequence[float] = (0.0, 0.5),
    seeds: int = 3,
    title: str = "Digits with flipped labels",
    faults: bool = True,
    points: int = 201,
    baseline: str | None = None,
) -> list[dict[str, Any]]:
    """Every combination; with ``faults`` the last run is missing, and one diverged."""
    rng = np.random.default_rng(7)
    entries = [
        plan_entry(label, noise, seed) for noise in noises for label in optimizers for seed in range(seeds)
    ]
    shifts = rng.normal(0, 0.006, size=(len(noises), seeds))
    for entry in entries:
        noise, seed = entry["spec"]["task"]["label_noise"], entry["spec"]["seed"]
        place = list(optimizers).index(entry["label"])
        gain = GAIN.get(entry["label"], 0.06 * ((place * 7) % 11) / 11 if place else 0.0)
        write_run(
            out / "runs" / entry["run_id"], entry, gain, rng, shifts[list(noises).index(noise), seed], points
        )
    if faults:
        diverge(out, entries[-2 * seeds])
        lose(out, entries[-1])
    plan = {
        "schema_version": 1,
        "suite": "digits",
        "title": title,
        "reference": "after arXiv 2406.03682, section 5",
        "text": 'title = "Digits"\n[matrix]\nlabel_noise = [0.0, 0.5]\n',
        "axes": ["label_noise"],
        "baseline": optimizers[0] if baseline is None else baseline,
        "runs": entries,
    }
    (out / "plan.json").write_text(json.dumps(plan))
    return entries


def diverge(out: Path, entry: dict[str, Any]) -> None:
    folder = out / "runs" / entry["run_id"]
    for name in ("measures.parquet", "density.parquet"):
        (folder / name).unlink()
    result = json.loads((folder / "result.json").read_text())
    result |= {"status": "diverged", "reason": "loss is not finite at epoch 2", "metrics": None}
    (folder / "result.json").write_text(json.dumps(result))


def lose(out: Path, entry: dict[str, Any]) -> None:
    folder = out / "runs" / entry["run_id"]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.fixture
def make_out(tmp_path: Path) -> Callable[..., tuple[Path, list[dict[str, Any]]]]:
    """``make_out(**options)`` -> (output directory, plan entries)."""

    def make(name: str = "out", **options: Any) -> tuple[Path, list[dict[str, Any]]]:
        out = tmp_path / name
        return out, write_out(out, **options)

    return make


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 planned runs: 6 optimizers × label noise 0, 0.5 × 3 seeds; one diverged, one missing. Read only."""
    out = tmp_path_factory.mktemp("digits")
    write_out(out)
    return out


@pytest.fixture(scope="session")
def digits_report(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of ``digits``, rendered once. Read only."""
    return render(digits, tmp_path_factory.mktemp("digits_report"))
