"""Spectrum: every functional of the Hessian's eigenvalues from one pass of products."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from ..errors import InvalidInput, must_be
from .estimate import Array, Estimate
from .operator import SymmetricOperator, dense

SpectralFunction = Callable[[Array], Array]

# Beyond this the exact matrix (d^2 doubles) no longer fits an ordinary machine.
LARGEST_DENSE = 20_000


class Spectrum(ABC):
    """What one pass knows of the eigenvalues of H. Made by :func:`spectrum`.

    Every method is free of further products and returns an :class:`Estimate` with a 95 % interval.
    """

    dimension: int
    hvps: int
    tolerance: float | None = None

    @abstractmethod
    def trace(self) -> Estimate:
        """``tr H = sum_i lambda_i``."""

    @abstractmethod
    def frobenius_squared(self) -> Estimate:
        """``||H||_F^2 = sum_i lambda_i^2``."""

    @abstractmethod
    def functional(
        self, f: SpectralFunction, name: str = "functional", steep_at_zero: bool = False
    ) -> Estimate:
        """``tr f(H) = sum_i f(lambda_i)`` for a vectorised ``f`` of a numpy array.

        Args:
            f: vectorised; it may have jumps and kinks.
            name: of the row.
            steep_at_zero: f has a kink or a narrow peak at zero, as functions of abs(lambda) have. The value
                then takes into account how networks' spectra condense there; the interval holds either way.
        """

    @abstractmethod
    def top_eigenvalues(self, k: int = 5) -> list[Estimate]:
        """The k algebraically largest eigenvalues, ``lambda_1 >= lambda_2 >= …``."""

    @abstractmethod
    def bottom_eigenvalue(self) -> Estimate:
        """The algebraically smallest eigenvalue."""

    @abstractmethod
    def weighted_nodes(self) -> tuple[Array, Array, Array]:
        """Nodes and weights with ``sum w f(node) ~ tr f(H)``, and whether each is an exact eigenvalue."""

    def frobenius_norm(self) -> Estimate:
        """``||H||_F``; its error is that of the square by the delta method."""
        squared = self.frobenius_squared()
        value = math.sqrt(max(squared.value, 0.0))
        low, high = (math.sqrt(max(end, 0.0)) for end in (squared.ci_low, squared.ci_high))
        error = squared.std_error / (2 * value) if value > 0 else squared.std_error
        return replace(squared, name="frobenius_norm", value=value, std_error=error, ci_low=low, ci_high=high)

    def log_determinant(
        self, damping: float = 0.01, relative: bool = False, signed: bool = False
    ) -> Estimate:
        """``log det(I + |H|/delta) = sum_i log(1 + |lambda_i|/delta)``.

        Args:
            damping: ``delta``, in units of the loss; or of lambda_max with ``relative``.
            relative: ``delta = damping * lambda_max``, a shape rather than a size.
            signed: ``log det(I + H/delta)`` instead, the (phi, psi, mu) form with ``s^2 = 1/delta``.

        Raises:
            InvalidInput: damping not > 0; relative with lambda_max <= 0; signed with
                ``lambda_min <= -delta``, where the determinant is not positive.
        """
        if not (math.isfinite(damping) and damping > 0):
            raise must_be("damping", "> 0", damping)
        nearest, delta, furthest, unit = damping, damping, damping, ""
        if relative:
            nearest, delta, furthest = (damping * value for value in self._largest())
            unit = f" = {damping:g} lambda_max"
        if signed:
            bottom = self.bottom_eigenvalue()
            if bottom.ci_high <= -delta or bottom.value <= -delta:
                raise InvalidInput(
                    f"log det(I + H/delta) needs lambda_min > -delta, but lambda_min = {bottom.value:.4g} "
                    f"and delta = {delta:.4g}; raise the damping or use signed=False (|H|)"
                )
            formula = "log det(I + H/delta)"
        else:
            formula = "sum log(1 + |lambda|/delta)"

        def of(unit_length: float) -> Estimate:
            def f(values: Array) -> Array:
                sizes = np.maximum(values, -delta) if signed else np.abs(values)
                return np.asarray(np.log1p(np.maximum(sizes / unit_length, -1 + 1e-12)))

            return self.functional(f, "log_determinant", steep_at_zero=True)

        found = of(delta)
        note = f"{formula}, delta = {delta:.4g}{unit}"
        if furthest > nearest:
            # The sum of |lambda| falls as delta grows: the ends of delta's interval bound it.
            ends = [found, of(furthest)] + ([of(nearest)] if nearest > 0 else [])
            low = min(end.ci_low for end in ends)
            high = max(end.ci_high for end in ends) if nearest > 0 else math.inf
            found = found.stretched(low, high, self.tolerance)
        if signed and bottom.ci_low <= -delta:
            # One eigenvalue near -delta makes the determinant as small as one likes.
            found = found.stretched(-math.inf, found.ci_high, self.tolerance)
            note += f"; lambda_min may lie as low as {bottom.ci_low:.4g}"
        return replace(found, note=f"{note}; {found.note}" if found.note else note)

    def _largest(self) -> tuple[float, float, float]:
        """Lower bound, value and upper bound of lambda_max, which must be positive.

        Beside the Ritz value, ``0 <= sum (lambda_max - lambda)(lambda - lambda_min)`` bounds it from below.
        """
        top, bottom = self.top_eigenvalues(1)[0], self.bottom_eigenvalue()
        if top.ci_high <= 0 or (top.converged and top.value <= 0):
            raise must_be("lambda_max", "> 0 for a relative damping", top.value)
        low = top.ci_low
        if not top.converged:
            reach, squared, trace = max(-bottom.ci_low, 0.0), self.frobenius_squared(), self.trace()
            below = trace.ci_high + reach * self.dimension
            if below > 0:
                low = max(low, (squared.ci_low + reach * trace.ci_low) / below)
        value = top.value if top.value > 0 else math.sqrt(max(low, 1e-3 * top.ci_high) * top.ci_high)
        value = min(max(value, low), top.ci_high)
        return max(low, 0.0), value, top.ci_high

    def density(self, points: int = 256, width: float | None = None) -> pd.DataFrame:
        """The spectral density, smoothed: ``(1/d) sum_i N(t; lambda_i, width^2)`` on a grid.

        Args:
            points: grid points, evenly spaced over the spectrum and three widths beyond.
            width: standard deviation of the smoothing kernel; by default 1 % of the spectrum's range, or 0.6
                of the mean distance between the quadrature's nodes where that is larger.

        Returns:
            A frame with columns ``eigenvalue``, ``density``, ``std_error``; ``frame.attrs["width"]`` is the
            width. The error refers to a density of this smoothness.
        """
        if points < 2:
            raise must_be("points", ">= 2", points)
        if width is not None and not width > 0:
            raise must_be("width", "> 0", width)
        nodes, weights, known = self.weighted_nodes()
        low, high = float(nodes.min()), float(nodes.max())
        # A spectrum of one point (zero Hessian) still gets a bump of visible width.
        sigma = width or max(0.01 * (high - low), 0.6 * _spacing(nodes, weights, known))
        sigma = sigma or 0.01 * max(abs(high), 1.0)
        grid = np.linspace(low - 3 * sigma, high + 3 * sigma, points)
        density, error = self.smoothed(lambda values: _kernel(grid, values, sigma))
        frame = pd.DataFrame(
            {"eigenvalue": grid, "density": density / self.dimension, "std_error": error / self.dimension}
        )
        frame.attrs["width"] = sigma
        return frame

    def smoothed(self, kernel: Callable[[Array], Array]) -> tuple[Array, Array]:
        """``sum_i k(t, lambda_i)`` at many t, and its standard error.

        ``kernel`` takes nodes of shape ``(n,)`` and returns its values, of shape ``(t, n)``.
        """
        nodes, weights, _ = self.weighted_nodes()
        found = kernel(nodes) @ weights
        return found, np.zeros_like(found)


def _kernel(grid: Array, values: Array, sigma: float) -> Array:
    scaled = (grid[:, None] - values[None, :]) / sigma
    return np.asarray(np.exp(-0.5 * scaled**2) / (sigma * math.sqrt(2 * math.pi)))


def _spacing(nodes: Array, weights: Array, known: Array) -> float:
    """The mean distance between neighbouring nodes of the bulk, by weight; 0 where all is known."""
    bulk = np.argsort(nodes[known == 0])
    x, w = nodes[known == 0][bulk], weights[known == 0][bulk]
    if len(x) < 2:
        return 0.0
    between = np.minimum(w[1:], w[:-1])
    return float(between @ np.diff(x) / between.sum()) if between.sum() > 0 else 0.0


class DenseSpectrum(Spectrum):
    """All eigenvalues, exactly: for small models."""

    def __init__(self, eigenvalues: Array, hvps: int) -> None:
        self.eigenvalues = np.sort(np.asarray(eigenvalues, dtype=np.float64))[::-1]
        self.dimension = len(self.eigenvalues)
        self.hvps = hvps

    def functional(
        self, f: SpectralFunction, name: str = "functional", steep_at_zero: bool = False
    ) -> Estimate:
        """``sum_i f(lambda_i)``, exact."""
        return Estimate.exact(name, float(np.sum(f(self.eigenvalues))), hvps=self.hvps)

    def trace(self) -> Estimate:
        """The exact trace."""
        return Estimate.exact("trace", float(self.eigenvalues.sum()), hvps=self.hvps)

    def frobenius_squared(self) -> Estimate:
        """The exact squared Frobenius norm."""
        return Estimate.exact("frobenius_squared", float((self.eigenvalues**2).sum()), hvps=self.hvps)

    def top_eigenvalues(self, k: int = 5) -> list[Estimate]:
        """The k largest eigenvalues (fewer where the dimension is smaller)."""
        if k < 1:
            raise must_be("k", ">= 1", k)
        chosen = self.eigenvalues[:k]
        return [Estimate.exact(f"lambda_{i + 1}", float(v), hvps=self.hvps) for i, v in enumerate(chosen)]

    def bottom_eigenvalue(self) -> Estimate:
        """The smallest eigenvalue."""
        return Estimate.exact("lambda_min", float(self.eigenvalues[-1]), hvps=self.hvps)

    def weighted_nodes(self) -> tuple[Array, Array, Array]:
        """The eigenvalues, each once."""
        ones = np.ones(self.dimension)
        return self.eigenvalues, ones, ones


def spectrum(
    surface: SymmetricOperator,
    *,
    hvps: int = 100,
    seed: int = 0,
    tolerance: float | None = None,
    eigenvalues: int = 0,
    dense_below: int = 0,
    warm: Spectrum | None = None,
) -> Spectrum:
    """Spend one budget of Hessian-vector products on everything that is a function of the eigenvalues.

    First a Krylov stage (at most 70 % of the budget; a tenth where there are no outliers), then random
    probes of the complement; ``ProbedSpectrum`` in probed.py has the estimators. With ``hvps >= d``, or
    ``d <= dense_below``, the exact spectrum of the dense Hessian. Up to 40 products, with no eigenvalues
    asked for and no outliers there, all are probes, and the eigenvalues mere bounds.

    Args:
        surface: a loss surface, or any other symmetric operator (Gauss-Newton, rescaled).
        hvps: the budget; no more products than this (for a dense spectrum: d).
        seed: of the private random stream; the global one is never used.
        tolerance: stop early once trace, Frobenius norm and the five top eigenvalues have relative
            95 % half widths below this; ``None`` spends the budget.
        eigenvalues: so many of the largest should be settled before the probes get the rest, where there are
            outliers at all; 0 lets the errors of trace and norm alone decide, which at small budgets
            (under about 50) may leave lambda_1 a tenth too small, or (without outliers) to a bound.
        dense_below: dimensions up to this are solved exactly.
        warm: an earlier spectrum of the same network, such as the last epoch's: its outlying eigenvectors
            join the basis (one product each), so that a small budget follows the top eigenvalues in training.

    Raises:
        InvalidInput: hvps < 6, eigenvalues < 0, a tolerance that is not > 0, or a warm start of another
            dimension.

    Example:
        >>> from torch import nn
        >>> from sharpbench.sharpness import LossSurface
        >>> model = nn.Linear(3, 1, bias=False)
        >>> data = (torch.diag(torch.tensor([3.0, 6.0, 9.0])), torch.zeros(3, 1))
        >>> surface = LossSurface(model, lambda out, y: 0.5 * ((out - y) ** 2).mean(), data)
        >>> result = spectrum(surface)
        >>> round(result.trace().value, 3), [round(e.value, 3) for e in result.top_eigenvalues(2)]
        (42.0, [27.0, 12.0])
    """
    from .twostage import measure_two_stage

    if hvps < 6:
        raise must_be("hvps", ">= 6", hvps)
    if eigenvalues < 0:
        raise must_be("eigenvalues", ">= 0", eigenvalues)
    if tolerance is not None and not tolerance > 0:
        raise must_be("tolerance", "> 0", tolerance)
    d = surface.dimension
    if warm is not None and warm.dimension != d:
        raise must_be("the dimension of the warm start", f"{d}, as the surface's", warm.dimension)
    if d <= max(dense_below, hvps) and d <= LARGEST_DENSE:
        return DenseSpectrum(torch.linalg.eigvalsh(dense(surface)).numpy(), hvps=d)
    generator = torch.Generator().manual_seed(seed)
    return measure_two_stage(surface, hvps, generator, tolerance, eigenvalues, warm)
