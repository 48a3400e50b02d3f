"""Intervals for functionals of scalar samples of q, calibrated on chi-squares of one degree as on normals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..functionals import UniversalMeasure
from .chi_square import HIGH, LOW
from .estimate import Array, Estimate
from .power_sums import Bounded
from .psi import Exponential, psi_kind, psi_parts
from .quadratic import from_bounds

REPLICATES = 400
# Samples behind the true functional of each model: its error is a few percent of that of n samples.
MANY = 20_000
# How much larger than its estimate the standard deviation of few chi-square samples may be.
MARGIN = 1.5


@dataclass(frozen=True)
class Control:
    """A control variate: the quadratic form that is known, on the same draws, and its eigenvalues."""

    samples: Array
    spectrum: Array


@dataclass(frozen=True)
class _Functional:
    """``phi(mean psi)`` for stacks of samples: psi of shape (B, n) -> (B, n, K), phi of (K,) -> ()."""

    psi: Callable[[Tensor], Tensor]
    phi: Callable[[Tensor], Tensor]

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bias-corrected values, shape (B,), and the influence of each sample, (B, n).

        The correction ``-tr(phi'' Cov psi) / 2n`` is exact for a quadratic phi (a variance), of second order
        for others.
        """
        values = self.psi(x)
        mean = values.mean(1)
        plain, slope, curve = _derivatives(self.phi, mean)
        centred = values - mean[:, None, :]
        n = x.shape[1]
        covariance = torch.einsum("bni,bnj->bij", centred, centred) / max(n - 1, 1)
        return plain - 0.5 * (curve * covariance).sum((1, 2)) / n, torch.einsum("bni,bi->bn", centred, slope)


def estimate_samples(
    measure: UniversalMeasure,
    samples: Array,
    name: str,
    *,
    hvps: int = 0,
    control: Control | None = None,
    rounding: float = 0.0,
    note: str = "",
) -> Estimate:
    """``phi(mean psi)`` of n samples of q, with a 95 % interval.

    With a control variate c whose functional is known, ``S_n(q) - S_n(c) + S(c)``. The interval is that of a
    bootstrap t (Efron 1981) whose resamples come from models instead of the samples: the part of q that is
    not known has their mean and variance and is normal, or a chi-square of one degree of either sign, as
    quadratic forms of many eigenvalues or of one are. The interval holds all three. Few samples can't tell
    the three apart, and a t-interval covers the last two in two thirds of all cases only.

    A determinant (psi = exp(-r t)) is infinite where an eigenvalue passes -1/r; unless the samples' variance
    rules that out, the interval is unbounded below.

    Args:
        measure: a (phi, psi, mu) object.
        samples: shape ``(n,)``.
        name: of the row.
        hvps: of the row.
        control: the control variate, if there is one.
        rounding: a bound on the error of each sample; it widens the interval.
        note: of the row.
    """
    x = torch.from_numpy(np.asarray(samples, dtype=np.float64))
    kind = psi_kind(measure)
    if isinstance(kind, Exponential):
        return _determinant(measure, kind, x, name, hvps, control, rounding, note)
    bounds = _interval(_of_measure(measure), x, control, rounding)
    return from_bounds(name, bounds, hvps, note)


def _determinant(
    measure: UniversalMeasure,
    kind: Exponential,
    x: Tensor,
    name: str,
    hvps: int,
    control: Control | None,
    rounding: float,
    note: str,
) -> Estimate:
    """By ``t = -log(mean exp(-r q)) / r``, which is the functional's effective sample."""
    rate, shift = kind.rate, float(x.mean())

    def psi(t: Tensor) -> Tensor:
        return torch.exp((-rate * (t - shift)).clamp(max=600.0))[..., None]

    def phi(m: Tensor) -> Tensor:
        return shift - torch.log(m[0]) / rate

    if control is not None and (rate * control.spectrum).min(initial=0.0) <= -1:
        # The form that is known has an infinite functional, as a basis of few vectors may have without that
        # anything were infinite for the losses: it then controls nothing.
        control = None
    rest = x if control is None else x - torch.from_numpy(control.samples)
    deviation = float(rest.std()) + rounding
    bounds = _interval(_Functional(psi, phi), x, control, rounding)
    # One eigenvalue of the variance seen is sqrt(2) deviations large.
    if MARGIN * math.sqrt(2) * abs(rate) * deviation >= 1:
        spread = float(x.std()) / math.sqrt(len(x))
        upper = shift + 6 * spread + rounding  # Jensen: -log E exp(-r q) / r <= E q for r > 0
        sign = math.copysign(1.0, rate)
        low, high = (
            (-math.inf, max(bounds.value, upper)) if sign > 0 else (min(bounds.value, -upper), math.inf)
        )
        bounds = Bounded(low, bounds.value, high)
        note = "; ".join(part for part in ("too few samples to exclude an infinite value", note) if part)
    ends = [kind.functional(measure, 2 * rate * t) for t in (bounds.low, bounds.value, bounds.high)]
    return from_bounds(name, Bounded(min(ends[0], ends[2]), ends[1], max(ends[0], ends[2])), hvps, note)


def _interval(functional: _Functional, x: Tensor, control: Control | None, rounding: float) -> Bounded:
    n = len(x)
    c = None if control is None else torch.from_numpy(control.samples)
    rest = x if c is None else x - c
    value, error = _statistic(functional, x[None], None if c is None else c[None])
    generator = torch.Generator().manual_seed(n)
    known = 0.0
    quantiles = [0.0, 0.0]
    mean, deviation = float(rest.mean()), float(rest.std())
    normal = torch.randn(REPLICATES * n + MANY, generator=generator, dtype=torch.float64)
    fixed = torch.zeros_like(normal)
    if control is not None:
        spectrum = torch.from_numpy(np.ascontiguousarray(control.spectrum))
        for eigenvalue in spectrum:
            draws = torch.randn(len(normal), generator=generator, dtype=torch.float64)
            fixed += 0.5 * eigenvalue * draws**2
        known = float(functional.parts(fixed[None, -MANY:])[0])
    value = value + known
    chi = (normal**2 - 1) / math.sqrt(2)
    shapes = (normal, chi, -chi) if deviation > 0 else ()
    for shape in shapes:
        whole = fixed + mean + deviation * shape
        truth = float(functional.parts(whole[None, -MANY:])[0]) - known
        few = whole[:-MANY].reshape(REPLICATES, n)
        found, errors = _statistic(functional, few, None if c is None else fixed[:-MANY].reshape(-1, n))
        ratios = (found - truth) / errors
        pivots = ratios[torch.isfinite(ratios)].numpy()
        if len(pivots):
            low, high = np.quantile(pivots, [LOW, HIGH])
            quantiles = [min(quantiles[0], float(low)), max(quantiles[1], float(high))]
    bias = _rounding_bias(functional, x, rounding)
    centre, half = float(value), float(error)
    return Bounded(centre - half * quantiles[1] - bias, centre, centre - half * quantiles[0] + bias)


def _statistic(functional: _Functional, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """Values and standard errors of ``S_n(x) - S_n(c)`` for each row, by the delta method."""
    value, influence = functional.parts(x)
    if c is not None:
        other, its_influence = functional.parts(c)
        value, influence = value - other, influence - its_influence
    return value, influence.std(1) / math.sqrt(x.shape[1])


def _rounding_bias(functional: _Functional, x: Tensor, rounding: float) -> float:
    """How far errors of that size can move the functional: all of one sign, or spreading the samples."""
    if rounding == 0:
        return 0.0
    away = torch.where(x >= x.mean(), 1.0, -1.0)
    alternating = torch.where(torch.arange(len(x)) % 2 == 0, 1.0, -1.0)
    patterns = [sign * pattern for pattern in (torch.ones_like(x), away, alternating) for sign in (1, -1)]
    rows = torch.stack([x, *(x + rounding * pattern for pattern in patterns)])
    values = functional.parts(rows)[0]
    return float((values[1:] - values[0]).abs().max())


def _of_measure(measure: UniversalMeasure) -> _Functional:
    vector = psi_parts(measure, torch.zeros(2, dtype=torch.float64))[1]

    def psi(x: Tensor) -> Tensor:
        flat = psi_parts(measure, x.reshape(-1))[0]
        return flat.reshape(*x.shape, flat.shape[-1])

    def phi(m: Tensor) -> Tensor:
        return measure.phi(m if vector else m[0])

    return _Functional(psi, phi)


def _derivatives(phi: Callable[[Tensor], Tensor], mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Phi, its gradient and its Hessian at each row of ``mean``, shape (B, K)."""
    try:
        return _elementwise(phi, mean)
    except (RuntimeError, IndexError, TypeError, ValueError):
        slope = torch.func.grad(phi)
        curve = torch.func.jacrev(slope)
    try:
        return torch.func.vmap(phi)(mean), torch.func.vmap(slope)(mean), torch.func.vmap(curve)(mean)
    except RuntimeError:  # a phi that branches on its argument: row by row
        rows = [(phi(m), slope(m), curve(m)) for m in mean]
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))  # type: ignore[return-value]


def _elementwise(phi: Callable[[Tensor], Tensor], mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same at once, where phi takes the K means apart (``m[1] - m[0] ** 2``), by columns.

    Raises:
        ValueError: phi is of another kind.
    """
    with torch.enable_grad():
        columns = mean.T.clone().requires_grad_(True)
        values = phi(columns)
        alone = torch.stack([phi(mean[0]), phi(mean[-1])])
        same = values.shape == (len(mean),) and torch.allclose(values[[0, -1]], alone, equal_nan=True)
        if not same:
            raise ValueError("phi is not elementwise")
        (slope,) = torch.autograd.grad(values.sum(), columns, create_graph=True)
        rows = []
        for part in slope:
            row = torch.zeros_like(columns)
            if part.requires_grad:
                (row,) = torch.autograd.grad(
                    part.sum(), columns, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            rows.append(row)
    curve = torch.stack(rows).permute(2, 0, 1)
    return values.detach(), slope.detach().T, curve.detach()
