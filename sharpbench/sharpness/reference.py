"""PyHessian as cross-check: its trace, eigenvalues and density of the same surface.

What breaks with today's torch, and what is done about it: ``density`` calls ``torch.eig``, which is gone, so
the documented contract of that function is supplied while it runs; a second object on one model adds to the
first's ``.grad``, so gradients are cleared before and restored after; it walks a loader with wrong weights
for uneven batches, so only one batch is accepted; it draws from the global generator, so that is seeded and
restored (by the surface's session).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import InvalidInput
from .estimate import Estimate

if TYPE_CHECKING:
    from .groups import Session


def pyhessian_rows(session: Session) -> None:
    """``trace``, ``lambda_1`` … and the density by PyHessian, with ``session.hvps`` as its iteration limit.

    Raises:
        InvalidInput: PyHessian is not installed, or the data are more than one batch.
    """
    try:
        import pyhessian
    except ImportError as error:
        raise InvalidInput(
            'backend "pyhessian" needs PyHessian: pip install "sharpbench[pyhessian]"'
        ) from error
    surface = session.surface
    batches = list(surface.batches)
    if len(batches) != 1 or surface.shards.active:
        raise InvalidInput('backend "pyhessian" takes one batch; pass (inputs, targets) without batch_size')
    if any(
        p.requires_grad and not any(p is q for q in surface.parameters) for p in surface.model.parameters()
    ):
        raise InvalidInput('backend "pyhessian" measures every parameter that requires gradients')
    batch = batches[0]
    cuda = surface.device.type == "cuda"
    torch.manual_seed(session.seed)
    np.random.seed(session.seed % 2**32)
    with session.group() as found, warnings.catch_warnings(), _own_gradients(surface.parameters):
        peer = pyhessian.hessian(
            surface.model, surface.evaluate.loss_fn, data=(batch.inputs, batch.targets), cuda=cuda
        )
        samples = np.asarray(_numbers(peer.trace(maxIter=session.hvps)))
        spread = float(samples.std(ddof=1)) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan
        note = f"PyHessian, {len(samples)} Hutchinson samples until its running mean settled"
        found.append(Estimate.from_error("trace", float(samples.mean()), spread, len(samples) - 1, note=note))
        values, _ = peer.eigenvalues(maxIter=session.hvps, top_n=session.top_k)
        for index, value in enumerate(_numbers(values)):
            # Power iteration: by magnitude, and without a bound.
            found.append(
                Estimate(
                    f"lambda_{index + 1}",
                    value,
                    math.nan,
                    math.nan,
                    math.nan,
                    0,
                    False,
                    "PyHessian, by |lambda|",
                )
            )
        with _eig_of_old():
            nodes, weights = peer.density(iter=min(session.hvps, surface.dimension), n_v=1)
        session.density = _smoothed(np.asarray(nodes[0]), np.asarray(weights[0]))


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values]


def _smoothed(nodes: Any, weights: Any) -> pd.DataFrame:
    low, high = float(nodes.min()), float(nodes.max())
    width = 0.01 * (high - low) or 0.01
    grid = np.linspace(low - 3 * width, high + 3 * width, 256)
    kernel = np.exp(-0.5 * ((grid[:, None] - nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))
    total = float(weights.sum())
    return pd.DataFrame({"eigenvalue": grid, "density": kernel @ weights / total, "std_error": math.nan})


@contextmanager
def _own_gradients(parameters: list[Any]) -> Iterator[None]:
    """No gradients before, the old ones after; and no warning of the cycle that this breaks."""
    saved = [p.grad for p in parameters]
    warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph=True")
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in zip(parameters, saved, strict=True):
            p.grad = grad


@contextmanager
def _eig_of_old() -> Iterator[None]:
    """``torch.eig(A, eigenvectors=True)`` as torch 1.8 documented it, for symmetric A.

    Returned: real and imaginary parts of the eigenvalues, shape (n, 2), and the eigenvectors as columns.
    """

    def eig(matrix: Tensor, eigenvectors: bool = False) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    names = vars(torch)
    before = names.get("eig")
    names["eig"] = eig
    try:
        yield
    finally:
        if before is None:
            del names["eig"]
        else:
            names["eig"] = before
