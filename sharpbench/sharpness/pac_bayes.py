"""PAC-Bayes sharpness: how much noise on the weights the training error bears."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput, must_be
from .batches import Batch
from .estimate import Estimate, t_quantile
from .relative import is_classification
from .surface import LossSurface

SMALLEST, LARGEST, STEPS = 1e-5, 1e2, 14
# The resolution of the bisection, as a factor on sigma; it joins the interval.
_STEP = math.exp(math.log(LARGEST / SMALLEST) / 2**STEPS)


def pac_bayes(
    surface: LossSurface, *, excess: float = 0.1, n: int = 16, magnitude: bool = False, seed: int = 0
) -> list[Estimate]:
    """The largest sigma with ``E_u error(x + sigma u) <= error(x) + excess``, and ``1/sigma²``.

    u ~ N(0, I), or ``|x| * N(0, I)`` with ``magnitude`` (Jiang et al. 2019, appendix C; the names then begin
    with ``magnitude_``). sigma is bisected on common draws of u; the interval holds the crossings of mean ±
    t standard errors, so it carries the chance of the draws.

    Raises:
        InvalidInput: not a classifier with cross-entropy, n < 4, or excess outside (0, 1).
    """
    if n < 4:
        raise must_be("n", ">= 4", n)
    if not 0 < excess < 1:
        raise must_be("excess", "in (0, 1)", excess)
    if not is_classification(surface):
        raise InvalidInput("pac_bayes needs cross-entropy of logits and integer labels: it counts errors")
    generator = torch.Generator().manual_seed(seed)
    point = surface.point()
    draws = torch.randn(n, surface.dimension, generator=generator).to(point)
    if magnitude:
        draws *= point.abs()
    curve = _ErrorCurve(surface, draws)
    with surface.session():
        limit = float(curve.at(0.0).mean()) + excess
        quantile = t_quantile(n - 1)
        # The pessimistic curve (mean + t se) crosses first: the low end of the interval.
        low, middle, high = (_crossing(curve, limit, shift) for shift in (quantile, 0.0, -quantile))
    prefix = "magnitude_" if magnitude else ""
    note = f"training error may rise by {excess:g}; {n} draws of noise"
    # The search ends somewhere: beyond its ends nothing is known.
    low = 0.0 if low <= SMALLEST * _STEP else low
    high = math.inf if high >= LARGEST / _STEP else high
    names = (f"{prefix}pac_bayes", f"{prefix}pac_bayes_sigma")
    if math.isinf(high) or low == 0.0:
        note += f"; the search for sigma ends at {SMALLEST:g} and {LARGEST:g}, and nothing is known beyond"
    sigma = _row(names[1], middle, low, high, quantile, note)
    flat = _row(
        names[0], middle**-2, high**-2, low**-2 if low > 0 else math.inf, quantile, "1/sigma²: " + note
    )
    return [flat, sigma]


@dataclass
class _ErrorCurve:
    surface: LossSurface
    draws: Tensor
    seen: dict[float, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = field(default_factory=dict)

    def at(self, sigma: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """The error rate under every draw scaled by sigma."""
        if sigma not in self.seen:
            rows = self.draws if sigma else self.draws[:1]
            self.seen[sigma] = self.surface.mean_at(sigma * rows.T, self._errors).numpy()
        return self.seen[sigma]

    def _errors(self, batch: Batch) -> Tensor:
        wrong: Tensor = self.surface.model(batch.inputs).argmax(1) != batch.targets
        return wrong.double().mean()


def _crossing(curve: _ErrorCurve, limit: float, shift: float) -> float:
    low, high = math.log(SMALLEST), math.log(LARGEST)
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        errors = curve.at(math.exp(middle))
        if errors.mean() + shift * errors.std(ddof=1) / math.sqrt(len(errors)) <= limit:
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))


def _row(name: str, value: float, low: float, high: float, quantile: float, note: str) -> Estimate:
    low, high = low / _STEP**2, high * _STEP**2
    half = 0.5 * (high - low)
    furthest = max(high - value, value - low)
    error = half / quantile if math.isfinite(half) else math.nan
    return Estimate(name, value, error, low, high, 0, bool(furthest <= 0.05 * abs(value)), note)
