"""QuadraticForms: Gaussian q = u^T H u / 2 with the Krylov part integrated instead of sampled."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..functionals import UniversalMeasure, estimate
from .estimate import Array, Estimate, jackknife
from .krylov import KrylovBasis
from .operator import SymmetricOperator

# Draws of the Krylov part for each product, where psi has no closed form; they cost no products.
INNER_DRAWS = 1024


class QuadraticForms:
    """Samples of ``q = u^T H u / 2``, ``u ~ N(0, I)``, conditional on what a Krylov basis knows.

    With ``u = Q a + p``, ``p = (I - QQ^T) u``, ``c = R^T p`` and ``h = p^T H p``,

        q = (a^T M a + 2 a^T c + h) / 2,     a ~ N(0, I_m) independent of p,

    so that given p the law of q is known: only p has to be sampled, with one product each. The outlying
    eigenvalues, which make plain Monte-Carlo means of q² or exp(-q) so wide, are in M. The expectation over
    a is taken (Rao-Blackwell) in closed form for psi = t, (t, t²) and exp(-t):

        E[q | p]      = (tr M + h) / 2,      Var[q | p] = ||M||_F² / 2 + ||c||²
        E[exp(-q)|p]  = det(I+M)^{-1/2} exp(-(h - c^T (I+M)^{-1} c) / 2)

    and by free inner draws of a for any other psi.
    """

    def __init__(
        self, surface: SymmetricOperator, basis: KrylovBasis, count: int, generator: torch.Generator
    ) -> None:
        before = surface.hvps
        self.basis = basis
        self.count = count
        self.values, self.vectors = np.linalg.eigh(basis.projected)
        forms, couplings = [], []
        columns = [column for column, _ in basis.leftovers]
        for start in range(0, count, 64):
            size = (min(64, count - start), surface.dimension)
            rows = torch.randn(size, generator=generator, dtype=surface.dtype).to(surface.device)
            rows, _ = basis.project_out(rows)
            forms.append((rows * surface.hvp(rows.T).T).sum(1).double().cpu().numpy())
            coupling = np.zeros((len(rows), basis.size))
            if columns:
                leftovers = torch.stack([vector for _, vector in basis.leftovers])
                coupling[:, columns] = (rows @ leftovers.T).double().cpu().numpy()
            couplings.append(coupling @ self.vectors)
        self.forms = np.concatenate(forms)
        self.couplings = np.vstack(couplings)
        self.hvps = surface.hvps - before
        self.seed = int(torch.randint(0, 2**31, (), generator=generator))

    def samples(self, measure: UniversalMeasure, scale: float) -> Array | None:
        """Samples for ``measure`` with ``u ~ N(0, scale² I)``, one row for each product, shape (n, K).

        ``estimate`` of all of them estimates the functional. ``None`` where the expectation is infinite.
        """
        s2 = scale * scale
        return conditional_samples(measure, s2 * self.values, s2 * self.couplings, s2 * self.forms, self.seed)

    def estimate(self, measure: UniversalMeasure, scale: float, name: str, hvps: int) -> Estimate:
        """The measure with bias correction, standard error and interval by the jackknife over products."""
        samples = self.samples(measure, scale)
        if samples is None:
            bottom = float(self.values.min())
            return Estimate.undefined(
                name, f"infinite: lambda_min = {bottom:.4g} <= -1/s^2 = {-1 / scale**2:.4g}", hvps=hvps
            )
        return estimate_from(measure, samples, name, hvps)


def conditional_samples(
    measure: UniversalMeasure, values: Array, couplings: Array, forms: Array, seed: int
) -> Array | None:
    """Samples that stand for ``q = sum_k (values_k a_k² / 2 + a_k c_k) + h / 2``, ``a ~ N(0, I)``.

    Row i belongs to ``couplings[i]`` and ``forms[i]``; the mean of psi over the row is (or, for a psi without
    closed form, estimates) its conditional expectation. ``None`` where that is infinite.
    """
    kind = _kind(measure)
    if kind == "exponential":
        if values.min(initial=0.0) <= -1.0:
            return None
        exponent = 0.5 * (forms - (couplings**2 / (1 + values)).sum(1)) + 0.5 * np.log1p(values).sum()
        return np.asarray(exponent)[:, None]
    mean = 0.5 * (values.sum() + forms)
    if kind == "linear":
        return np.asarray(mean)[:, None]
    if kind == "quadratic":
        # Two points with the conditional mean and variance have the same t and t² on average.
        deviation = np.sqrt(0.5 * (values**2).sum() + (couplings**2).sum(1))
        return np.stack([mean - deviation, mean + deviation], axis=1)
    draws = np.random.default_rng(seed).standard_normal((len(forms), INNER_DRAWS, len(values)))
    inner = 0.5 * (draws**2 @ values) + np.einsum("nkm,nm->nk", draws, couplings)
    return np.asarray(inner + 0.5 * forms[:, None])


def exact_value(measure: UniversalMeasure, values: Array, seed: int) -> float | None:
    """The functional of a quadratic form with eigenvalues ``values``, all known; ``None`` if infinite."""
    copies = 1 if _kind(measure) != "other" else 128
    nothing = np.zeros((copies, len(values)))
    samples = conditional_samples(measure, values, nothing, np.zeros(copies), seed)
    if samples is None:
        return None
    flat = torch.from_numpy(samples).reshape(-1)
    if len(flat) == 1:
        return float(estimate(measure, flat))  # the log-sum-exp form, safe from underflow
    return _phi_of_mean(measure, flat)


def estimate_from(measure: UniversalMeasure, samples: Array, name: str, hvps: int = 0) -> Estimate:
    """Jackknife over the rows of ``samples``, shape ``(n, K)``: each row is one independent draw."""
    rows = torch.from_numpy(np.ascontiguousarray(samples))
    plain = rows.shape[1] == 1

    def statistic(kept: NDArray[np.intp]) -> float:
        chosen = (rows if len(kept) == len(rows) else rows[torch.as_tensor(kept)]).reshape(-1)
        # A measure's own estimator corrects for a count of independent samples, which the K of a row
        # are not: there phi of the mean is taken as it is, and the jackknife removes its bias.
        return float(estimate(measure, chosen)) if plain else _phi_of_mean(measure, chosen)

    value, error, degrees = jackknife(statistic, len(rows))
    return Estimate.from_error(name, value, error, degrees, hvps=hvps)


def _phi_of_mean(measure: UniversalMeasure, samples: Tensor) -> float:
    psi = measure.psi(samples)
    stacked = psi if isinstance(psi, Tensor) else torch.stack(list(psi), dim=-1)
    return float(measure.phi(stacked.mean(0)))


def _kind(measure: UniversalMeasure) -> str:
    """Which closed form psi has, found by looking at its values rather than at its name."""
    grid = torch.linspace(-1.5, 2.0, 8, dtype=torch.float64)
    psi = measure.psi(grid)
    parts = [psi] if isinstance(psi, Tensor) and psi.ndim == 1 else None
    if parts is None:
        parts = list(psi.unbind(-1)) if isinstance(psi, Tensor) else list(psi)
    if len(parts) == 1 and torch.allclose(parts[0], torch.exp(-grid)):
        return "exponential"
    # The part of each component beyond a polynomial of the degree, by least squares on the grid.
    for degree, kind in ((1, "linear"), (2, "quadratic")):
        design = torch.stack([grid**k for k in range(degree + 1)], dim=1)
        target = torch.stack(parts, dim=1)
        fitted = design @ torch.linalg.lstsq(design, target).solution
        if float((fitted - target).abs().max()) < 1e-9 * max(1.0, float(target.abs().max())):
            return kind
    return "other"
