"""SymmetricOperator: what the spectral pass needs of a matrix; and D_x H D_x."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor


class SymmetricOperator(Protocol):
    """A symmetric matrix known by its products with vectors.

    :class:`~sharpbench.sharpness.surface.LossSurface` (the Hessian),
    :class:`~sharpbench.sharpness.gauss_newton.GaussNewton` and :class:`Rescaled` are such operators, so
    :func:`~sharpbench.sharpness.spectrum.spectrum` takes any of them.
    """

    dimension: int
    dtype: torch.dtype
    device: torch.device
    hvps: int

    def session(self) -> AbstractContextManager[None]:
        """Keep what many products share."""
        ...

    def hvp(self, vectors: Tensor) -> Tensor:
        """Products with vectors of shape ``(d,)`` or ``(d, k)``."""
        ...


class Rescaled:
    """``D A D`` with ``D = diag(scale)``; with ``scale = x`` and A = H, invariant to rescaling of layers.

    For a loss with ``L(D x) = L(x)`` (ReLU layers scaled against each other), ``H(D x) = D^-1 H(x) D^-1``, so
    ``D_x H D_x`` has the same eigenvalues at both points, while H has not (Dinh et al., 2017).

    Example:
        >>> from sharpbench.sharpness import LossSurface
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(3.0)
        >>> data = (torch.ones(1, 1), torch.zeros(1, 1))
        >>> surface = LossSurface(model, torch.nn.functional.mse_loss, data)
        >>> Rescaled(surface, surface.point()).hvp(torch.ones(1))  # 3 * 2 * 3
        tensor([18.])
    """

    def __init__(self, inner: SymmetricOperator, scale: Tensor) -> None:
        self.inner = inner
        self.scale = scale.to(inner.device, inner.dtype)
        self.dimension, self.dtype, self.device = inner.dimension, inner.dtype, inner.device

    @property
    def hvps(self) -> int:
        """Products with the inner operator."""
        return self.inner.hvps

    @hvps.setter
    def hvps(self, value: int) -> None:
        self.inner.hvps = value

    def session(self) -> AbstractContextManager[None]:
        """The inner operator's session."""
        return self.inner.session()

    def hvp(self, vectors: Tensor) -> Tensor:
        """``D A D V``."""
        scale = self.scale if vectors.ndim == 1 else self.scale[:, None]
        return scale * self.inner.hvp(scale * vectors.to(self.scale))


def dense(operator: SymmetricOperator, chunk: int = 256) -> Tensor:
    """The matrix itself in float64, from d products, symmetrised; shape ``(d, d)``."""
    d = operator.dimension
    matrix = torch.empty(d, d, dtype=torch.float64)
    with operator.session():
        for start in range(0, d, chunk):
            stop = min(start + chunk, d)
            block = torch.zeros(d, stop - start, dtype=operator.dtype, device=operator.device)
            block[torch.arange(start, stop), torch.arange(stop - start)] = 1.0
            matrix[:, start:stop] = operator.hvp(block).double().cpu()
    return 0.5 * (matrix + matrix.T)
