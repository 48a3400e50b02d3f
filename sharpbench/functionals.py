"""(phi, psi, mu): the functionals of the Hessian that are measured and minimised.

A functional of the universal class (arXiv 2406.03682, eq. 2) is

    S(x) = phi( E_{u ~ mu} psi( (1/2) u^T H(x) u ) ),

and its loss-value form at radius rho replaces the quadratic form by
``Delta(u) = (L(x + rho u) - L(x)) / rho^2``. The objects are defined once, here:
``sharpbench.sharpness`` measures them and ``sharpbench.optim.UniversalSAM`` minimises them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .errors import InvalidInput, must_be
from .laws import Gaussian, Law, ScaleInvariant, Sphere, UniformCube


class UniversalMeasure(Protocol):
    """What a (phi, psi, mu) object must offer; any object with these three will do."""

    mu: Law

    def psi(self, samples: Tensor, /) -> Tensor | Sequence[Tensor]:
        """Elementwise on samples of shape ``(n,)``."""
        ...

    def phi(self, mean: Tensor, /) -> Tensor:
        """Of the mean of psi, to a scalar."""
        ...


@dataclass(eq=False)
class Measure:
    """A functional ``phi(mean_i psi(Delta_i))`` of samples ``Delta_i`` with ``u_i ~ mu``.

    Args:
        name: how reports call it.
        psi: maps the samples, shape ``(n,)``, elementwise to ``(n,)``; or, for a vector psi, to a
            tuple of such tensors (or one tensor of shape ``(n, k)``).
        phi: maps the mean of psi, shape ``()`` or ``(k,)``, to a scalar.
        mu: the law of ``u``.
        estimator: optional replacement for ``phi(mean(psi(.)))`` on a finite sample, used to remove
            bias (the 1/(n-1) of a variance) or overflow (log-sum-exp). It must converge to
            ``phi(E psi)`` as n grows.
        smallest_sample: the least number of samples for which the estimator exists.

    Example:
        >>> import torch
        >>> second_moment = Measure("E q^2", psi=lambda t: t**2, phi=lambda m: m, mu=Gaussian())
        >>> float(second_moment.estimate(torch.tensor([1.0, 3.0])))
        5.0
    """

    name: str
    psi: Callable[[Tensor], Tensor | Sequence[Tensor]]
    phi: Callable[[Tensor], Tensor]
    mu: Law
    estimator: Callable[[Tensor], Tensor] | None = None
    smallest_sample: int = 1
    formula: str = ""
    refusal: str = field(default="", repr=False)

    def estimate(self, samples: Tensor) -> Tensor:
        """S from samples of shape ``(n,)``; differentiable in the samples."""
        return estimate(self, samples)


def estimate(measure: UniversalMeasure, samples: Tensor) -> Tensor:
    """``phi(mean_i psi(samples_i))``, by the measure's own finite-sample estimator where it has one.

    Raises:
        InvalidInput: fewer samples than the measure needs.
    """
    if samples.ndim != 1:
        raise must_be("samples", "a vector of shape (n,)", tuple(samples.shape))
    least = getattr(measure, "smallest_sample", 1)
    if len(samples) < least:
        raise must_be(
            f"n_samples for {getattr(measure, 'name', 'this measure')!r}", f">= {least}", len(samples)
        )
    estimator = getattr(measure, "estimator", None)
    if estimator is not None:
        result: Tensor = estimator(samples)
        return result
    return measure.phi(_psi_values(measure, samples).mean(0))


def _psi_values(measure: UniversalMeasure, samples: Tensor) -> Tensor:
    """Psi of each sample, shape ``(n,)`` or ``(n, k)``, from any of the forms psi may return."""
    values = measure.psi(samples)
    if not isinstance(values, Tensor):
        return torch.stack(list(values), dim=-1)
    n = len(samples)
    if values.ndim == 2 and values.shape == (n, n):
        # (n, k) or (k, n)? One sample more tells.
        longer = measure.psi(torch.cat([samples, samples[:1]]).detach())
        return values if isinstance(longer, Tensor) and longer.shape[0] == n + 1 else values.T
    if values.ndim == 2 and values.shape[0] != n and values.shape[1] == n:
        return values.T
    if values.ndim not in (1, 2) or values.shape[0] != n:
        raise must_be("psi", f"elementwise: shape ({n},) or ({n}, k) for {n} samples", tuple(values.shape))
    return values


def sample_weights(measure: UniversalMeasure, samples: Tensor) -> Tensor:
    """``w_i = dS/dDelta_i = phi'(mean psi) psi'(Delta_i) / n``, shape ``(n,)``, by autograd.

    Where the measure has ``psi_derivative`` (elementwise, like psi) and ``phi_derivative`` (with the shape of
    the mean of psi), those are used instead. The gradient of the regulariser is ``sum_i w_i dDelta_i/dx``,
    with phi' taken at the same Monte-Carlo mean as the samples (arXiv 2406.03682, Algorithm 1).

    >>> sample_weights(TRACE, torch.tensor([1.0, 2.0]))
    tensor([1., 1.])
    """
    given = [getattr(measure, f"{part}_derivative", None) for part in ("psi", "phi")]
    if getattr(measure, "estimator", None) is None and given[0] is not None and given[1] is not None:
        with torch.no_grad():
            inner = given[0](samples)
            inner = inner if isinstance(inner, Tensor) else torch.stack(list(inner), dim=-1)
            outer: Tensor = given[1](_psi_values(measure, samples).mean(0))
            return (inner * outer if inner.ndim == 1 else inner @ outer) / len(samples)
    with torch.enable_grad():
        leaf = samples.detach().clone().requires_grad_(True)
        value = estimate(measure, leaf)
        (weights,) = torch.autograd.grad(value, leaf)
    return weights


def _log_mean_exp(exponents: Tensor) -> Tensor:
    return torch.logsumexp(exponents, 0) - math.log(len(exponents))


def _unbiased_variance_times_two(samples: Tensor) -> Tensor:
    return 2.0 * samples.var(0, correction=1)


def log_det_measure(scale: float = 1.0) -> Measure:
    """Log det(I + s^2 H) = -2 log E exp(-q), u ~ N(0, s^2 I); finite iff lambda_min > -1/s^2.

    >>> log_det_measure(0.1).formula
    'log det(I + s^2 H), s = 0.1'
    """
    if not scale > 0:
        raise must_be("scale", "> 0", scale)
    return Measure(
        "log_det",
        psi=lambda t: torch.exp(-t),
        phi=lambda m: -2.0 * torch.log(m),
        mu=Gaussian(scale),
        estimator=lambda samples: -2.0 * _log_mean_exp(-samples),
        formula=f"log det(I + s^2 H), s = {scale:g}",
    )


def power_sum_measure(order: int) -> Measure:
    """sum_i lambda_i^k = tr H^k = 2 kappa_k / (k-1)!, kappa_k the k-th cumulant of q, u ~ N(0, I).

    Supported orders: 1 (trace), 2 (squared Frobenius norm), 3.
    """
    if order not in (1, 2, 3):
        raise must_be("order", "1, 2 or 3", order)

    def psi(t: Tensor) -> Sequence[Tensor]:
        return [t**k for k in range(1, order + 1)]

    def phi(m: Tensor) -> Tensor:
        if order == 1:
            return 2.0 * m[0]
        if order == 2:
            return 2.0 * (m[1] - m[0] ** 2)
        return m[2] - 3.0 * m[1] * m[0] + 2.0 * m[0] ** 3

    return Measure(f"power_sum_{order}", psi, phi, Gaussian(), formula=f"tr H^{order}")


def scale_invariant(measure: Measure, name: str | None = None) -> Measure:
    """The same functional of ``D_x H D_x``, ``D_x = diag(x)``, by sampling ``x * z``, z ~ mu (Thm. 4).

    Invariant under ``x -> D x`` for losses with that symmetry (rescaled ReLU layers).
    """
    return Measure(
        name or f"scale_invariant_{measure.name}",
        measure.psi,
        measure.phi,
        ScaleInvariant(measure.mu),
        measure.estimator,
        measure.smallest_sample,
        measure.formula.replace("H", "D_x H D_x"),
    )


TRACE = Measure("trace", psi=lambda t: t, phi=lambda m: 2.0 * m, mu=Gaussian(), formula="tr H")
AVERAGE_DIRECTION = Measure(
    "average_direction", psi=lambda t: t, phi=lambda m: m, mu=Sphere(), formula="tr H / (2d)"
)
FROBENIUS = Measure(
    "frobenius_squared",
    psi=lambda t: (t, t**2),
    phi=lambda m: 2.0 * (m[1] - m[0] ** 2),
    mu=Gaussian(),
    # 1/(n-1): phi of the plug-in mean is low by the factor (n-1)/n.
    estimator=_unbiased_variance_times_two,
    smallest_sample=2,
    formula="||H||_F^2",
)
LOG_DET = log_det_measure(1.0)


def determinant_measure(half_width: float = 0.01) -> Measure:
    """What the published Det-SAM samples: psi e^{-t/2}, phi t^{-2}, mu Unif[-h, h]^d.

    With mu the Lebesgue measure, ``phi(int psi) = det H / (2 pi)^d`` up to sign conventions, and it
    diverges unless H is positive definite: an optimizer may use this object, but as a *measure* of a
    network's Hessian it is refused in favour of :func:`log_det_measure`.
    """
    return Measure(
        "determinant",
        psi=lambda t: torch.exp(-0.5 * t),
        phi=lambda m: m**-2,
        mu=UniformCube(half_width),
        # (mean exp(-t/2))^-2 in logarithms, so that a large negative t does not overflow twice.
        estimator=lambda samples: torch.exp(-2.0 * _log_mean_exp(-0.5 * samples)),
        formula="det H",
        refusal=(
            "det H diverges unless every eigenvalue is positive, which no network's Hessian grants; "
            "measure log det(I + s^2 H) instead (log_det_measure(s))"
        ),
    )


def require_measurable(measure: UniversalMeasure) -> None:
    """Refuse functionals that are infinite on indefinite Hessians, naming the finite one."""
    refusal = getattr(measure, "refusal", "")
    if refusal:
        raise InvalidInput(f"{getattr(measure, 'name', 'measure')}: {refusal}")
