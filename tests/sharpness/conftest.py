"""A digits network trained once, with its exact Hessian spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sharpbench.sharpness import DenseSpectrum, LossSurface


@dataclass(frozen=True)
class Trained:
    model: nn.Module
    data: tuple[Tensor, Tensor]
    surface: LossSurface
    exact: DenseSpectrum
    eigenvalues: np.ndarray


def _train(activation: type[nn.Module]) -> Trained:
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[:512]
    inputs = torch.tensor(digits.data / 16.0, dtype=torch.float32)[order]
    targets = torch.tensor(digits.target)[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), activation(), nn.Linear(16, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(30):
            for batch in torch.randperm(512).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
                optimizer.step()
    data = (inputs, targets)
    surface = LossSurface(model, nn.functional.cross_entropy, data)
    eigenvalues = torch.linalg.eigvalsh(surface.dense_hessian()).numpy()
    return Trained(model, data, surface, DenseSpectrum(eigenvalues, 0), eigenvalues)


@pytest.fixture(scope="session")
def trained() -> Trained:
    """64-16-10 with ReLU: 1210 parameters."""
    return _train(nn.ReLU)


@pytest.fixture(scope="session")
def smooth() -> Trained:
    """The same with GELU: losses at a radius then agree with the Hessian."""
    return _train(nn.GELU)
