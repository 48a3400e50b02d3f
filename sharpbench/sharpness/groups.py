"""The groups of rows that measure() knows, and what they share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..functionals import FROBENIUS, TRACE, log_det_measure
from .capacity import capacity_rows
from .estimate import Estimate
from .examples import gradient_moments
from .forms import QuadraticForms
from .krylov import KrylovBasis
from .pac_bayes import pac_bayes
from .perturbation import average_case_sharpness, sam_sharpness, worst_case_sharpness
from .probed import ProbedSpectrum
from .radius import LossDifferences
from .relative import gauss_newton_rows, relative_flatness, scale_invariant_rows
from .spectrum import Spectrum, spectrum
from .subsets import m_sharpness
from .surface import LossSurface

COLUMNS = [
    "measure", "value", "std_error", "ci_low", "ci_high", "hvps", "gradients", "seconds", "converged"
]  # fmt: skip

# log det(I + s²H) is finite while lambda_min > -1/s² = -100, which every network we trained grants.
LOG_DET_SCALE = 0.1
RADIUS_DIRECTIONS = 24
# A variance from fewer samples has no interval worth its name.
LEAST_FORMS = 24


@dataclass
class Session:
    """One call of measure(): its settings, and the rows so far."""

    surface: LossSurface
    hvps: int
    rho: float
    damping: float
    top_k: int
    seed: int
    warm: Spectrum | None = None
    initial: Mapping[str, Tensor] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    spectrum: Spectrum | None = None
    density: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame({"eigenvalue": [], "density": [], "std_error": []}, dtype=float)
    )

    @contextmanager
    def group(self) -> Iterator[list[Estimate]]:
        """Collect estimates that share one cost: products, gradients and seconds."""
        start = time.perf_counter()
        gradients = self.surface.gradients
        hvps = self.surface.hvps
        found: list[Estimate] = []
        try:
            yield found
        finally:  # what was found before an error stays
            self._record(found, start, hvps, gradients)

    def undefined(self, names: Sequence[str], reason: str) -> None:
        """Rows of these names without a value, but for those that there are already."""
        known = {row["measure"] for row in self.rows}
        with self.group() as found:
            found += [Estimate.undefined(name, reason) for name in names if name not in known]

    def _record(self, found: Sequence[Estimate], start: float, hvps: int, gradients: int) -> None:
        cost = {
            "hvps": max(self.surface.hvps - hvps, *(e.hvps for e in found), 0) if found else 0,
            "gradients": self.surface.gradients - gradients,
            "seconds": time.perf_counter() - start,
        }
        for e in found:
            values = [e.name, e.value, e.std_error, e.ci_low, e.ci_high]
            self.rows.append(dict(zip(COLUMNS[:5], values, strict=True)) | cost | {"converged": e.converged})
            if e.note:
                self.notes[e.name] = e.note


def basics(session: Session) -> None:
    """``loss`` and ``grad_norm``."""
    with session.group() as found:
        found.append(Estimate.exact("loss", session.surface.loss()))
        found.append(Estimate.exact("grad_norm", float(session.surface.gradient().double().norm())))


def _spectrum(session: Session) -> None:
    """Trace, Frobenius norm, log-determinant and extreme eigenvalues of the Hessian, from one pass."""
    with session.group() as found:
        result = spectrum(
            session.surface,
            hvps=session.hvps,
            seed=session.seed,
            eigenvalues=session.top_k,
            warm=session.warm,
        )
        found += [result.trace(), result.frobenius_norm(), result.frobenius_squared()]
        found += [result.log_determinant(damping=session.damping)]
        found += [*result.top_eigenvalues(session.top_k), result.bottom_eigenvalue()]
        session.spectrum, session.density = result, result.density()


def _sam_sharpness(session: Session) -> None:
    """L(x + rho g/|g|) - L(x), what SAM reduces."""
    with session.group() as found:
        found.append(sam_sharpness(session.surface, session.rho))


def _universal(session: Session) -> None:
    """(phi, psi, mu)-sharpness: trace, Frobenius and log det, from quadratic forms and at a radius."""
    surface = session.surface
    # Another stream than the spectrum's: the probes must not repeat the basis' own start.
    generator = torch.Generator().manual_seed(session.seed + 1_000_003)
    scales = {TRACE: 1.0, FROBENIUS: 1.0, log_det_measure(LOG_DET_SCALE): LOG_DET_SCALE}
    with session.group() as found:
        if isinstance(session.spectrum, ProbedSpectrum):
            basis = session.spectrum.basis
        else:
            basis = KrylovBasis(surface, max(4, session.hvps // 2), generator)
            basis.grow(basis.capacity)
        forms = QuadraticForms(surface, basis, max(LEAST_FORMS, session.hvps // 4), generator)
        for measure, scale in scales.items():
            found.append(forms.estimate(measure, scale, f"phi_psi_mu:{measure.name}", forms.hvps))
    with session.group() as found:
        # u ~ N(0, I) has length about sqrt(d): so that rho is the length of the displacement.
        factor = session.rho / math.sqrt(surface.dimension)
        draws = LossDifferences.draw(surface, TRACE.mu, factor, RADIUS_DIRECTIONS, True, generator, basis)
        for measure, scale in scales.items():
            found.append(draws.scaled(scale).estimate(measure, f"phi_psi_mu:{measure.name}@radius"))


def _worst_case(session: Session) -> None:
    """The largest loss within rho, by ascent: L2, L-infinity (rho / sqrt(d)), and relative to the weights."""
    surface, rho = session.surface, session.rho
    with session.group() as found:
        found.append(worst_case_sharpness(surface, rho, seed=session.seed))
        box = rho / math.sqrt(surface.dimension)
        found.append(
            worst_case_sharpness(surface, box, norm="linf", seed=session.seed).renamed("worst_case_linf")
        )
        found.append(worst_case_sharpness(surface, rho, adaptive=True, seed=session.seed))


def _average_case(session: Session) -> None:
    """The mean loss at random displacements of length about rho, and relative to the weights."""
    with session.group() as found:
        found.append(average_case_sharpness(session.surface, session.rho, seed=session.seed))
        found.append(average_case_sharpness(session.surface, session.rho, adaptive=True, seed=session.seed))


def _m_sharpness(session: Session) -> None:
    """SAM sharpness on mini-batches of 32, averaged."""
    with session.group() as found:
        found.append(m_sharpness(session.surface, session.rho, seed=session.seed))


def _gauss_newton(session: Session) -> None:
    """Trace and top eigenvalue of the Gauss-Newton matrix; the Fisher trace of classifiers."""
    with session.group() as found:
        found += gauss_newton_rows(session.surface, hvps=max(6, session.hvps // 2), seed=session.seed)


def _gradient_noise(session: Session) -> None:
    """Empirical Fisher trace, and signal-to-noise ratio of the gradient over examples."""
    with session.group() as found:
        found += gradient_moments(session.surface, seed=session.seed)


def _relative(session: Session) -> None:
    """Relative flatness x^T H x and Fisher-Rao norm x^T G x."""
    with session.group() as found:
        found += relative_flatness(session.surface)


def _scale_invariant(session: Session) -> None:
    """Trace and top eigenvalue of D_x H D_x, invariant to rescaling of layers."""
    with session.group() as found:
        found += scale_invariant_rows(session.surface, hvps=max(6, session.hvps // 2), seed=session.seed)


def _capacity(session: Session) -> None:
    """Norms of the weights, distance from initialisation, path norm, margin."""
    with session.group() as found:
        found += capacity_rows(session.surface, session.initial)


def _pac_bayes(session: Session) -> None:
    """1/sigma² of the largest weight noise that raises the training error by at most 0.1."""
    with session.group() as found:
        for magnitude in (False, True):
            found += pac_bayes(session.surface, magnitude=magnitude, seed=session.seed)


MEASURES: dict[str, Callable[[Session], None]] = {
    "spectrum": _spectrum,
    "sam_sharpness": _sam_sharpness,
    "universal": _universal,
    "worst_case": _worst_case,
    "average_case": _average_case,
    "m_sharpness": _m_sharpness,
    "gauss_newton": _gauss_newton,
    "gradient_noise": _gradient_noise,
    "relative": _relative,
    "scale_invariant": _scale_invariant,
    "capacity": _capacity,
    "pac_bayes": _pac_bayes,
}
"""Groups that :func:`measure` takes, in the order in which they are measured."""


def row_names(group: str, top_k: int) -> list[str]:
    """The rows that a group of :data:`MEASURES` gives on every network where it can be computed.

    >>> row_names("spectrum", 1)[-2:], row_names("m_sharpness", 1)
    (['lambda_1', 'lambda_min'], ['m_sharpness'])
    """
    if group == "spectrum":
        tops = [f"lambda_{i}" for i in range(1, top_k + 1)]
        return ["trace", "frobenius_norm", "frobenius_squared", "log_determinant", *tops, "lambda_min"]
    if group == "universal":
        names = ["phi_psi_mu:trace", "phi_psi_mu:frobenius_squared", "phi_psi_mu:log_det"]
        return [*names, *(f"{name}@radius" for name in names)]
    return _ROWS[group]


_ROWS = {
    "sam_sharpness": ["sam_sharpness"],
    "worst_case": ["worst_case", "worst_case_linf", "adaptive_worst_case"],
    "average_case": ["average_case", "adaptive_average_case"],
    "m_sharpness": ["m_sharpness"],
    "gauss_newton": ["ggn_trace", "ggn_lambda_1"],
    "gradient_noise": ["empirical_fisher_trace", "gradient_snr"],
    "relative": ["relative_flatness", "fisher_rao"],
    "scale_invariant": ["scale_invariant_trace", "scale_invariant_lambda_1"],
    "capacity": ["weight_norm", "path_norm"],
    "pac_bayes": ["pac_bayes", "pac_bayes_sigma", "magnitude_pac_bayes", "magnitude_pac_bayes_sigma"],
}
