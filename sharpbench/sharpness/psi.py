"""Which closed form a measure's psi has, found from its values rather than its name."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functionals import UniversalMeasure, estimate
from .estimate import Array

DEGREE = 3


@dataclass(frozen=True)
class Polynomial:
    """``psi_j(t) = sum_k coefficients[j, k] t^k``, degree at most 3; ``vector`` if psi has several parts."""

    coefficients: Array
    vector: bool

    @property
    def degree(self) -> int:
        """The largest power that occurs."""
        used = [k for k in range(self.coefficients.shape[1]) if bool((self.coefficients[:, k] != 0).any())]
        return max(used, default=0)

    def phi(self, measure: UniversalMeasure, moments: Array) -> float:
        """``phi(E psi)`` from the moments ``E q^k``, k = 0 to 3."""
        mean = torch.from_numpy((self.coefficients * moments).sum(1))
        return float(measure.phi(mean if self.vector else mean[0]))


@dataclass(frozen=True)
class Exponential:
    """``psi(t)`` proportional to ``exp(-rate t)``: its mean is a determinant."""

    rate: float

    def functional(self, measure: UniversalMeasure, log_det: float) -> float:
        """The functional where ``log det(I + rate H) = log_det``: ``E psi = psi(log_det / (2 rate))``."""
        if not math.isfinite(log_det):  # E psi is infinite or 0, and of the sign of psi
            at_zero = psi_parts(measure, torch.zeros(1, dtype=torch.float64))[0][0, 0]
            return float(measure.phi(at_zero * (math.inf if log_det < 0 else 0.0)))
        point = torch.tensor([log_det / (2 * self.rate)], dtype=torch.float64)
        if getattr(measure, "smallest_sample", 1) <= 1:
            return float(estimate(measure, point))
        mean = psi_parts(measure, point)[0]
        return float(measure.phi(mean[0]))


def psi_kind(measure: UniversalMeasure) -> Polynomial | Exponential | None:
    """The closed form of psi on a grid from -1000 to 1000, or ``None``.

    >>> from sharpbench.functionals import FROBENIUS, LOG_DET
    >>> psi_kind(FROBENIUS).degree, psi_kind(LOG_DET)
    (2, Exponential(rate=1.0))
    """
    inner = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    outer = torch.tensor([-1000.0, -30.0, -3.0, -0.01, 0.02, 2.5, 40.0, 1000.0], dtype=torch.float64)
    near, vector = psi_parts(measure, inner)
    design = torch.stack([inner**k for k in range(DEGREE + 1)], dim=1)
    coefficients = torch.linalg.lstsq(design, near).solution
    coefficients[coefficients.abs() < 1e-10 * coefficients.abs().amax(0)] = 0.0
    # The last bits of a least-squares fit depend on where its arrays lie in memory.
    coefficients.apply_(lambda c: float(f"{c:.12g}"))
    far, _ = psi_parts(measure, outer)
    powers = torch.stack([outer**k for k in range(DEGREE + 1)], dim=1)
    sizes = powers.abs() @ coefficients.abs()
    if bool(((powers @ coefficients - far).abs() <= 1e-6 * sizes + 1e-12).all()):
        return Polynomial(coefficients.T.numpy(), vector)
    if near.shape[1] > 1 or vector or not bool((near > 0).all() or (near < 0).all()):
        return None
    logs = near[:, 0].abs().log()
    rate = float(logs[2] - logs[4])  # from t = 0 to t = 1
    check = outer[1:-1]
    values = far[1:-1, 0] / near[2, 0]
    if rate and bool(torch.allclose(values.log(), -rate * check, rtol=1e-6, atol=1e-9)):
        return Exponential(rate)
    return None


def psi_parts(measure: UniversalMeasure, t: Tensor) -> tuple[Tensor, bool]:
    """Psi as ``(n, K)`` in float64, and whether it is a vector."""
    psi = measure.psi(t)
    if not isinstance(psi, Tensor):
        return torch.stack([part.double() for part in psi], dim=-1), True
    if psi.ndim == 1:
        return psi.double()[:, None], False
    return (psi if len(psi) == len(t) else psi.T).double(), True
