"""Prints a digest of every number that one fixed sequence of calls gives: run by the test beside it."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from sharpbench.bench.run import execute
from sharpbench.models import build_model
from sharpbench.sharpness import LossSurface, measure
from sharpbench.spec import RunSpec


def digest(*tensors: torch.Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def numbers(folder: Path) -> dict[str, str]:
    """Products, a table of measures and a training, each as a digest."""
    torch.manual_seed(0)
    model = build_model("small_cnn", (1, 8, 8), 10).eval()
    data = (torch.randn(48, 1, 8, 8), torch.randint(0, 10, (48,)))
    surface = LossSurface(model, F.cross_entropy, data, batch_size=32)
    vectors = torch.randn(surface.dimension, 4)
    with surface.session():
        products = [surface.hvp(vectors), surface.hvp(vectors), surface.hvp(vectors[:, 0])]
    table = measure(model, F.cross_entropy, data, hvps=20, seed=0).frame.drop(columns="seconds")
    run = RunSpec(
        task={"epochs": 2, "train_fraction": 0.2, "label_noise": 0.5, "model": "small_cnn"},
        optimizer={"name": "infosam", "label": "infosam"},
        measure={"measures": ("spectrum",), "examples": 32, "hvps": 10},
    )
    assert execute(run, folder / "run") == "done"
    weights = load_file(folder / "run" / "model.safetensors")
    measures = pd.read_parquet(folder / "run" / "measures.parquet").drop(columns="seconds")
    return {
        "products": digest(*products),
        "measures": hashlib.sha256(table.to_csv(float_format="%.17g").encode()).hexdigest(),
        "weights": digest(*(weights[name] for name in sorted(weights))),
        "measures of the run": hashlib.sha256(measures.to_csv(float_format="%.17g").encode()).hexdigest(),
    }


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    with tempfile.TemporaryDirectory() as place:
        for name, value in numbers(Path(place)).items():
            print(name, value, sep=": ")
