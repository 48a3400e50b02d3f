"""Operators with known spectra: a diagonal, rotated by cosine transforms and random signs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

Values = NDArray[np.float64]


class Rotated:
    """A symmetric operator with these eigenvalues, whose eigenvectors spread over all coordinates."""

    def __init__(self, values: Values, dtype: torch.dtype = torch.float32) -> None:
        generator = np.random.default_rng(12345)
        self.dimension, self.dtype, self.device, self.hvps = len(values), dtype, torch.device("cpu"), 0
        kind = np.float32 if dtype == torch.float32 else np.float64
        self._values = generator.permutation(values).astype(kind)
        self._signs = [generator.choice([-1.0, 1.0], len(values)).astype(kind) for _ in range(2)]

    def session(self) -> AbstractContextManager[None]:
        return nullcontext()

    def hvp(self, vectors: Tensor) -> Tensor:
        self.hvps += 1 if vectors.ndim == 1 else vectors.shape[1]
        x = vectors.numpy().T
        for signs in self._signs:
            x = fft.dct(x * signs, norm="ortho", axis=-1)
        x = x * self._values
        for signs in self._signs[::-1]:
            x = fft.idct(x, norm="ortho", axis=-1) * signs
        return torch.from_numpy(np.ascontiguousarray(x.T)).to(self.dtype)


def _known(d: int = 1000) -> dict[str, Values]:
    g = np.random.default_rng(7)
    i, u = np.arange(1, d + 1), g.random(d)
    return {
        "power law": 10.0 / i,
        "weak outliers": np.r_[[0.25, 0.24, 0.2], 0.1 * u[3:]],
        "semicircle": 4 * (g.beta(1.5, 1.5, d) - 0.5),
        "copies": np.r_[np.full(5, 10.0), 0.1 * u[5:]],
        "both signs": np.r_[
            np.arange(10, 0, -1.0), -np.arange(10, 0, -1.0), 0.02 * g.standard_normal(d - 20)
        ],
        "condensed at zero": np.exp(2 * g.standard_normal(d)) * 1e-3 * g.choice([-1, 1], d),
        "atom at zero": np.r_[np.linspace(2, 20, 9), 0.1 * np.abs(g.standard_normal(75)), np.zeros(d - 84)],
        "edge of a bulk": np.r_[np.linspace(1, 2, 20), 0.5 * u[20:]],
    }


KNOWN = _known()
