"""Seven small networks with exact Hessians: what the coverage of intervals is checked on.

Untrained and trained, with and without normalisation, classification and regression: 1 000 to 3 000 weights
each, so that all eigenvalues of the Hessian can be computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn

from sharpbench.sharpness import LossSurface

EXAMPLES = 512


class TinyTransformer(nn.Module):
    """One pre-norm block over the 8 rows of a digit."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(torch.randn(8, width) * 0.02)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attend = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.reshape(-1, 8, 8)) + self.place
        q, k, v = self.attend(self.norm1(h)).chunk(3, dim=-1)
        scores = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
        h = h + self.out(scores.softmax(-1) @ v)
        h = h + self.mlp(self.norm2(h))
        return self.head(self.norm3(h).mean(1))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def _regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def _digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))[:EXAMPLES]
    return torch.tensor(digits.data / 16.0)[order], torch.tensor(digits.target)[order]


def _diabetes() -> tuple[Tensor, Tensor]:
    data = load_diabetes()
    inputs = torch.tensor(data.data / data.data.std(0))
    targets = torch.tensor((data.target - data.target.mean()) / data.target.std())
    return inputs, targets[:, None]


# name: network, data, loss, epochs, learning rate
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]], str, int, float]] = {
    "mlp, untrained": (_mlp, _digits, "cross_entropy", 0, 0.1),
    "mlp, trained": (_mlp, _digits, "cross_entropy", 40, 0.1),
    "cnn with batchnorm, untrained": (_cnn, _digits, "cross_entropy", 1, 0.0),
    "cnn with batchnorm, trained": (_cnn, _digits, "cross_entropy", 30, 0.05),
    "transformer, untrained": (TinyTransformer, _digits, "cross_entropy", 0, 0.05),
    "transformer, trained": (TinyTransformer, _digits, "cross_entropy", 40, 0.05),
    "regression mlp, trained": (_regressor, _diabetes, "mse_loss", 60, 0.05),
}


def network(name: str) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]:
    """The trained model in float64, its loss function and its data."""
    make, load, loss_name, epochs, lr = NETWORKS[name]
    loss_fn = getattr(nn.functional, loss_name)
    inputs, targets = load()
    torch.manual_seed(0)
    model = make().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            loss_fn(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    return model.eval(), loss_fn, (inputs, targets)


def eigenvalues(name: str, cache: Path | None = None) -> np.ndarray:
    """All eigenvalues of the network's Hessian, largest first; kept in ``cache`` if that is given."""
    kept = None if cache is None else cache / f"{name.replace(', ', '_').replace(' ', '_')}.npy"
    if kept is not None and kept.exists():
        return np.load(kept)
    matrix = LossSurface(*network(name)).dense_hessian()
    values = torch.linalg.eigvalsh(matrix).numpy()[::-1].copy()
    if kept is not None:
        np.save(kept, values)
    return values
