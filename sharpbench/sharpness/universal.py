"""(phi, psi, mu)-sharpness: the optimizers' own functionals, measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import must_be
from ..functionals import UniversalMeasure, require_measurable
from ..laws import Gaussian, Law, Rademacher, ScaleInvariant, Sphere, UniformCube
from .estimate import Array, Estimate
from .forms import QuadraticForms
from .krylov import KrylovBasis
from .operator import Rescaled, SymmetricOperator
from .psi import Polynomial, psi_kind
from .radius import LossDifferences, draw_rows
from .samples import estimate_samples
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

    For a Gaussian law, or one uniform on a sphere, half of the products (none, if a ``basis`` of the same
    surface is given) build a Krylov basis whose part of the expectation is then known, and the others are
    probes of its complement; see :class:`~sharpbench.sharpness.forms.QuadraticForms`. ``ScaleInvariant``
    laws are those of ``D_x H D_x``. A psi that is linear needs no more than tr H, whatever the law, if its
    entries are independent. Other laws are sampled as they are. Up to n dimensions the Hessian itself is
    formed, and the result is exact.

    The law is part of the measure: ``2 Var(q)`` is ||H||_F² for Gaussian u only (Rademacher u give its
    off-diagonal part). log det(I + s²H) is infinite when lambda_min <= -1/s². Where that was seen, the value
    is nan; where the products do not exclude it, the interval is unbounded below and not converged; the note
    says which. The suites use s = 0.1, finite down to lambda_min = -100.

    The 95 % intervals are made for the skewed distributions of quadratic forms
    (benchmarks/coverage_universal.py): with few products they are wide.

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
    law: Law = measure.mu
    operator: SymmetricOperator = surface
    while isinstance(law, ScaleInvariant):
        point = torch.cat([p.detach().reshape(-1) for p in surface.parameters])
        operator, law, basis = Rescaled(operator, point), law.law, None
    before = operator.hvps
    kind = psi_kind(measure)
    with operator.session():
        linear = isinstance(kind, Polynomial) and kind.degree <= 1
        if isinstance(law, Gaussian) or (linear and isinstance(law, Rademacher | UniformCube)):
            found = _forms(operator, kind, n, generator, basis).estimate(measure, _deviation(law), name, 0)
            return replace(found, hvps=operator.hvps - before)
        if isinstance(law, Sphere) and isinstance(kind, Polynomial):
            radius = operator.dimension**0.5 if isinstance(law.radius, str) else float(law.radius)
            forms = _forms(operator, kind, n, generator, basis)
            found = forms.estimate(measure, 1.0, name, 0, radius=radius)
            return replace(found, hvps=operator.hvps - before)
        samples = _plain_forms(operator, law, surface.parameters, n, generator)
    note = f"{n} samples of u^T H u / 2"
    return estimate_samples(measure, samples, name, hvps=operator.hvps - before, note=note)


def _deviation(law: Law) -> float:
    """The standard deviation of an entry of u."""
    if isinstance(law, Gaussian):
        return law.scale
    return law.half_width / math.sqrt(3) if isinstance(law, UniformCube) else 1.0


def _forms(
    operator: SymmetricOperator,
    kind: object,
    n: int,
    generator: torch.Generator,
    basis: KrylovBasis | None,
) -> QuadraticForms:
    """A Krylov basis of half the products, from a Gaussian start, and probes; all d directions if d <= n."""
    left, isotropic = n, False
    if basis is None:
        d, isotropic = operator.dimension, True
        basis = KrylovBasis(operator, d if d <= n else n // 2, generator)
        if d <= n:
            basis.include(torch.eye(d, dtype=operator.dtype, device=operator.device))
        else:
            basis.start_at(torch.randn(d, generator=generator, dtype=operator.dtype).to(operator.device))
            basis.grow(n // 2)
        left -= basis.size
    if isinstance(kind, Polynomial) and kind.degree > 2:
        left -= len(basis.leftovers)
    return QuadraticForms(operator, basis, max(left, 2), generator, isotropic=isotropic)


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
    operator: SymmetricOperator, law: Law, like: Sequence[Tensor], n: int, generator: torch.Generator
) -> Array:
    found = []
    for start in range(0, n, 64):
        rows = draw_rows(like, law, min(64, n - start), generator).to(operator.device, operator.dtype)
        found.append(0.5 * (rows * operator.hvp(rows.T).T).sum(1).double().cpu().numpy())
    return np.concatenate(found)
