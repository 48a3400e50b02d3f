"""(phi, psi, mu)-sharpness: the optimizers' own functionals, measured."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import must_be
from ..functionals import UniversalMeasure, require_measurable
from ..laws import Gaussian
from .estimate import Array, Estimate
from .forms import QuadraticForms, estimate_from
from .krylov import KrylovBasis
from .radius import LossDifferences, draw_rows
from .surface import LossSurface


def of_hessian(
    surface: LossSurface,
    measure: UniversalMeasure,
    n: int = 64,
    seed: int = 0,
    *,
    basis: KrylovBasis | None = None,
) -> Estimate:
    """``phi(E_{u ~ mu} psi(u^T H u / 2))`` from n Hessian-vector products.

    For a Gaussian law, half of the products (none, if a ``basis`` of the same surface is given) build a
    Krylov basis whose part of the expectation is then taken in closed form, so that skewed functionals
    such as log det(I + s²H) are estimated where plain Monte Carlo is hopeless; see
    :class:`~sharpbench.sharpness.forms.QuadraticForms`. Other laws are sampled as they are. The value is
    corrected for bias, and its error found, by the jackknife; the interval is a t-interval.

    The law is part of the measure: ``2 Var(q)`` is ||H||_F² for Gaussian u only (Rademacher u give its
    off-diagonal part). log det(I + s²H) is infinite when lambda_min <= -1/s²; then the value is nan and the
    note says so. The suites use s = 0.1, finite down to lambda_min = -100.

    Raises:
        InvalidInput: n < 8, or a measure with a ``refusal`` (det H).

    Source: "A universal class of sharpness-aware minimization algorithms", arXiv 2406.03682, eq. 2.

    Example:
        >>> from torch import nn
        >>> from sharpbench.functionals import TRACE
        >>> data = (torch.eye(3), torch.zeros(3, 1))
        >>> model = nn.Linear(3, 1, bias=False)
        >>> surface = LossSurface(model, lambda out, y: 1.5 * ((out - y) ** 2).mean(), data)
        >>> of_hessian(surface, TRACE, n=40).contains(3.0)  # H = I
        True
    """
    require_measurable(measure)
    if n < 8:
        raise must_be("n", ">= 8", n)
    name = f"phi_psi_mu:{getattr(measure, 'name', 'measure')}"
    generator = torch.Generator().manual_seed(seed)
    before = surface.hvps
    with surface.session():
        if isinstance(measure.mu, Gaussian):
            probes = n
            if basis is None:
                basis = KrylovBasis(surface, n // 2, generator)
                probes -= basis.grow(n // 2)
            forms = QuadraticForms(surface, basis, probes, generator)
            return forms.estimate(measure, measure.mu.scale, name, surface.hvps - before)
        samples = _plain_forms(surface, measure, n, generator)
    return estimate_from(measure, samples[:, None], name, surface.hvps - before)


def at_radius(
    surface: LossSurface,
    measure: UniversalMeasure,
    rho: float,
    n: int = 64,
    antithetic: bool = True,
    seed: int = 0,
    *,
    basis: KrylovBasis | None = None,
) -> Estimate:
    """``phi(mean psi(Delta(u)))`` with ``Delta`` from loss values at radius rho: forward passes only.

        Delta(u) = (L(x + rho u) - L(x)) / rho²                         or, antithetic,
        Delta(u) = (L(x + rho u) + L(x - rho u) - 2 L(x)) / (2 rho²),

    the second exactly ``u^T H u / 2`` on a quadratic, whatever the gradient. With u ~ N(0, I) the
    displacement has length about ``rho sqrt(d)``: pass ``rho = r / sqrt(d)`` for displacements of length r.

    Args:
        surface: the loss surface.
        measure: a (phi, psi, mu) object.
        rho: the radius, a factor on u.
        n: number of directions (n + 1 forward passes, 2n + 1 antithetic).
        antithetic: use both signs of each direction.
        seed: of the private random stream.
        basis: for a Gaussian law, a Krylov basis of the same surface serves as control variate: the
            functional of its quadratic form, known exactly, replaces that form's own sample value.

    Raises:
        InvalidInput: rho not > 0, n < 2, or a measure with a ``refusal``.

    Example:
        >>> from torch import nn
        >>> from sharpbench.functionals import FROBENIUS
        >>> model, data = nn.Linear(2, 1, bias=False), (torch.eye(2), torch.ones(2, 1))
        >>> surface = LossSurface(model, lambda out, y: ((out - y) ** 2).mean(), data)
        >>> at_radius(surface, FROBENIUS, rho=0.1, n=200).contains(2.0)  # H = I
        True
    """
    require_measurable(measure)
    if not (math.isfinite(rho) and rho > 0):
        raise must_be("rho", "> 0", rho)
    if n < 2:
        raise must_be("n", ">= 2", n)
    name = f"phi_psi_mu:{getattr(measure, 'name', 'measure')}@radius"
    generator = torch.Generator().manual_seed(seed)
    with surface.session():
        differences = LossDifferences.draw(surface, measure.mu, rho, n, antithetic, generator, basis)
    return differences.estimate(measure, name)


def _plain_forms(
    surface: LossSurface, measure: UniversalMeasure, n: int, generator: torch.Generator
) -> Array:
    found = []
    for start in range(0, n, 64):
        rows = draw_rows(surface, measure.mu, min(64, n - start), generator)
        found.append(0.5 * (rows * surface.hvp(rows.T).T).sum(1).double().cpu().numpy())
    return np.concatenate(found)
