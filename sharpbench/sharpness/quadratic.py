"""Functionals of q = u^T H u / 2: of its moments, and by draws where psi has no closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..functionals import UniversalMeasure, estimate
from .estimate import DEFAULT_TOLERANCE, Array, Estimate, t_quantile
from .power_sums import Bounded, PowerSums
from .psi import Polynomial

if TYPE_CHECKING:
    from .forms import QuadraticForms

# Draws of the known part of q, where psi has no closed form; they cost no products.
DRAWS = 16_384
PARTS = 16


def from_bounds(name: str, value: Bounded, hvps: int = 0, note: str = "") -> Estimate:
    """An estimate with the given interval; its standard error is that of a normal one of the same width."""
    if math.isnan(value.value) or math.isnan(value.low) or math.isnan(value.high):
        return Estimate.undefined(name, "phi is not finite where the samples are", hvps=hvps)
    if math.isinf(value.value):  # the estimate overflowed: no number, whatever its interval
        return Estimate(name, math.nan, math.nan, value.low, value.high, hvps, False, note)
    half = 0.5 * (value.high - value.low)
    error = half / t_quantile(math.inf) if math.isfinite(half) else math.nan
    furthest = max(value.high - value.value, value.value - value.low)
    converged = math.isfinite(value.value) and furthest <= DEFAULT_TOLERANCE * abs(value.value)
    return Estimate(name, value.value, error, value.low, value.high, hvps, converged, note)


def functional_of_sums(
    measure: UniversalMeasure, kind: Polynomial, sums: list[Bounded], d: int, radius: float | None
) -> Bounded:
    """``phi(E psi(q))`` from the power sums ``p_k = tr H^k``, each between bounds.

    The deviations of phi as each power sum moves to either end of its interval are added up, so that the
    interval holds whatever the correlation of their errors.
    """

    def functional(values: list[float]) -> float:
        return kind.phi(measure, moments(values, d, radius))

    centre = [p.value for p in sums]
    value = functional(centre)
    low, high = value, value
    for index, p in enumerate(sums):
        ends = [functional([*centre[:index], end, *centre[index + 1 :]]) for end in (p.low, p.high)]
        if any(math.isnan(end) for end in ends):
            return Bounded(-math.inf, value, math.inf)
        low += min(*ends, value) - value
        high += max(*ends, value) - value
    return Bounded(low, value, high)


def moments(sums: list[float], d: int, radius: float | None = None) -> Array:
    """``E q^k``, k = 0 to 3, of ``q = u^T A u / 2`` with ``p_k = tr A^k``, u ~ N(0, I) or on a sphere.

    >>> moments([2.0, 2.0, 2.0], 2).tolist()  # A = I in two dimensions: q is exponential
    [1.0, 1.0, 2.0, 6.0]
    """
    p1, p2, p3 = [*sums, 0.0, 0.0, 0.0][:3]
    found = np.array(
        [1.0, p1 / 2, (p1**2 + 2 * p2) / 4, (p1**3 + 6 * p1 * p2 + 8 * p3) / 8],
        dtype=np.float64,
    )
    if radius is not None:  # u = radius g / |g|, and |g| is independent of g / |g|
        r2 = radius * radius
        found *= [1.0, r2 / d, r2**2 / (d * (d + 2.0)), r2**3 / (d * (d + 2.0) * (d + 4.0))]
    return found


def estimate_other(
    forms: QuadraticForms, measure: UniversalMeasure, scale: float, name: str, hvps: int, radius: float | None
) -> Estimate:
    """A psi without closed form: averaged over draws of the known part and of models of the rest.

    ``p^T B p`` has the mean tr B and the variance 2 tr B²; its distribution lies between normal (many
    eigenvalues) and a chi-square of one degree of either sign (one eigenvalue). The interval holds the
    functional at the ends of the intervals of mean and variance, for all three.
    """
    rng = np.random.default_rng(forms.seed)
    d, s2 = forms.surface.dimension, scale * scale
    values = form_spectrum(forms.projected, forms.columns, forms.gram)
    normal = rng.standard_normal((DRAWS, len(values)))
    known = 0.5 * (normal**2 @ values)
    shapes = [np.zeros(DRAWS)]
    traces: tuple[float, ...] = (0.0,)
    squares: tuple[float, ...] = (0.0,)
    if forms.count:
        sums = PowerSums(forms.blocks, forms.rest)
        trace, square = sums.trace(), sums.square()
        traces, squares = (trace.value, trace.low, trace.high), (square.value, square.low, square.high)
        chi = (rng.standard_normal(DRAWS) ** 2 - 1) / math.sqrt(2)
        shapes = [rng.standard_normal(DRAWS), chi, -chi]
    # The draws of a sphere are those of a Gaussian divided by their length.
    lengths = np.ones(DRAWS)
    if radius is not None:
        lengths = rng.chisquare(max(d - len(values), 1), DRAWS) + (normal**2).sum(1)
        lengths = lengths / radius**2
    found = []
    for mean in traces:
        for variance in squares:
            rest = mean + np.sqrt(2 * max(variance, 0.0)) * np.stack(shapes)
            q = s2 * (known + 0.5 * rest) / lengths
            found.append([_value_and_error(measure, torch.from_numpy(row)) for row in q])
    numbers = np.array(found)
    centre = float(numbers[0, :, 0].mean())
    noise = t_quantile(PARTS - 1) * float(numbers[0, :, 1].max())
    bounds = Bounded(float(numbers[..., 0].min()) - noise, centre, float(numbers[..., 0].max()) + noise)
    return from_bounds(name, bounds, hvps, f"psi has no closed form; {forms._note()}")


def _value_and_error(measure: UniversalMeasure, samples: torch.Tensor) -> tuple[float, float]:
    """The measure of the samples, and its standard error from parts of them."""
    parts = [float(estimate(measure, part)) for part in samples.chunk(PARTS)]
    return float(estimate(measure, samples)), float(np.std(parts, ddof=1)) / math.sqrt(PARTS)


def form_spectrum(projected: Array, columns: list[int], gram: Array) -> Array:
    """Eigenvalues of ``[[M, R^T], [R, 0]]``, with R in an orthonormal frame of its nonzero columns."""
    size, extra = len(projected), len(columns)
    block = np.zeros((size + extra, size + extra))
    block[:size, :size] = projected
    if extra:
        sizes, vectors = np.linalg.eigh(gram)
        root = np.sqrt(np.maximum(sizes, 0.0))[:, None] * vectors.T  # R = frame root, root^T root = gram
        block[size:, columns] = root
        block[columns, size:] = root.T
    return np.asarray(np.linalg.eigvalsh(block), dtype=np.float64)
