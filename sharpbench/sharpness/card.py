"""measure(): every measure of one network as a table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import nn

from ..errors import must_be, unknown_name
from ..functionals import FROBENIUS, TRACE, log_det_measure
from .estimate import Estimate
from .forms import QuadraticForms
from .krylov import KrylovBasis
from .perturbation import average_case_sharpness, sam_sharpness, worst_case_sharpness
from .radius import LossDifferences
from .spectrum import Spectrum, spectrum
from .surface import LossFunction, LossSurface
from .twostage import ProbedSpectrum

COLUMNS = [
    "measure", "value", "std_error", "ci_low", "ci_high", "hvps", "gradients", "seconds", "converged"
]  # fmt: skip

# log det(I + s²H) is finite while lambda_min > -1/s² = -100, which every network we trained grants.
LOG_DET_SCALE = 0.1
RADIUS_DIRECTIONS = 24
# A variance from fewer samples has no interval worth its name.
LEAST_FORMS = 24


@dataclass(frozen=True)
class Card:
    """What :func:`measure` found.

    Args:
        frame: one row per measure; columns ``measure``, ``value``, ``std_error``, ``ci_low``, ``ci_high``,
            ``hvps``, ``gradients``, ``seconds`` (each of the group the row was measured with),
            ``converged``.
        density: ``eigenvalue``, ``density``, ``std_error``; empty unless the group "spectrum" was asked for.
        spectrum: for any further functional; ``None`` unless asked for.
        notes: measure → the convention or caveat behind it.
    """

    frame: pd.DataFrame
    density: pd.DataFrame
    spectrum: Spectrum | None
    notes: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, measure: str) -> float:
        """The value of one measure by name."""
        rows = self.frame.loc[self.frame["measure"] == measure, "value"]
        if rows.empty:
            raise unknown_name("measure", measure, list(self.frame["measure"]))
        return float(rows.iloc[0])

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(index=False))


@dataclass
class _Session:
    """One call of measure(): its settings, and the rows so far."""

    surface: LossSurface
    hvps: int
    rho: float
    damping: float
    top_k: int
    seed: int
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
        hvps, gradients = self.surface.hvps, self.surface.gradients
        found: list[Estimate] = []
        yield found
        cost = {
            "hvps": self.surface.hvps - hvps,
            "gradients": self.surface.gradients - gradients,
            "seconds": time.perf_counter() - start,
        }
        for e in found:
            values = [e.name, e.value, e.std_error, e.ci_low, e.ci_high]
            self.rows.append(dict(zip(COLUMNS[:5], values, strict=True)) | cost | {"converged": e.converged})
            if e.note:
                self.notes[e.name] = e.note


def _basics(session: _Session) -> None:
    with session.group() as found:
        found.append(Estimate.exact("loss", session.surface.loss()))
        found.append(Estimate.exact("grad_norm", float(session.surface.gradient().double().norm())))


def _spectrum(session: _Session) -> None:
    with session.group() as found:
        result = spectrum(session.surface, hvps=session.hvps, seed=session.seed)
        found += [result.trace(), result.frobenius_norm(), result.frobenius_squared()]
        found += [result.log_determinant(damping=session.damping)]
        found += [*result.top_eigenvalues(session.top_k), result.bottom_eigenvalue()]
        session.spectrum, session.density = result, result.density()


def _sam_sharpness(session: _Session) -> None:
    with session.group() as found:
        found.append(sam_sharpness(session.surface, session.rho))


def _universal(session: _Session) -> None:
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


def _worst_case(session: _Session) -> None:
    with session.group() as found:
        found.append(worst_case_sharpness(session.surface, session.rho, seed=session.seed))


def _average_case(session: _Session) -> None:
    with session.group() as found:
        found.append(average_case_sharpness(session.surface, session.rho, seed=session.seed))


MEASURES: dict[str, Callable[[_Session], None]] = {
    "spectrum": _spectrum,
    "sam_sharpness": _sam_sharpness,
    "universal": _universal,
    "worst_case": _worst_case,
    "average_case": _average_case,
}
"""Groups that :func:`measure` takes, in the order in which they are measured."""


def measure(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    measures: Sequence[str] = ("spectrum", "sam_sharpness", "universal"),
    hvps: int = 100,
    rho: float = 0.05,
    damping: float = 0.01,
    top_k: int = 5,
    seed: int = 0,
    params: str | Sequence[str] = "all",
    batch_size: int | None = None,
) -> Card:
    """How sharp is this model on these data? One table, each value with its error.

    Rows ``loss`` and ``grad_norm`` always; then, by group: "spectrum" (``trace``, ``frobenius_norm``,
    ``frobenius_squared``, ``log_determinant``, ``lambda_1`` …, ``lambda_min``), "sam_sharpness",
    "universal" (``phi_psi_mu:*`` from quadratic forms, with ``hvps / 4`` more products, at least 24, on the
    spectrum's Krylov basis; ``phi_psi_mu:*@radius`` from losses at displacements of length about rho; log
    det with s = 0.1), and on request "worst_case" and "average_case".

    The ``@radius`` rows see what the Hessian does not: with ReLU, kinks within the radius add curvature that
    no derivative shows, so they lie above the others (by 8 % to a factor of two on digits networks); with
    smooth activations the two agree.

    Args:
        model: any ``torch.nn.Module``; measured in eval mode and left as it was.
        loss_fn: ``loss_fn(outputs, targets)``, a scalar mean.
        data: ``(inputs, targets)`` or a re-iterable of such batches, in a fixed order.
        measures: names from :data:`MEASURES`.
        hvps: budget of Hessian-vector products of the spectrum.
        rho: radius of SAM sharpness and of everything measured from loss values.
        damping: delta of ``log_determinant`` = sum log(1 + abs(lambda)/delta).
        top_k: how many top eigenvalues.
        seed: of the private random streams; the global ones are never used.
        params: ``"all"``, ``"trainable"`` or names of parameters.
        batch_size: cuts ``(inputs, targets)`` into slices.

    Raises:
        InvalidInput: an unknown measure, a value out of range, or what
            :class:`~sharpbench.sharpness.surface.LossSurface` refuses.

    Example:
        >>> model, data = nn.Linear(3, 1), (torch.randn(20, 3), torch.zeros(20, 1))
        >>> card = measure(model, nn.functional.mse_loss, data)
        >>> list(card.frame["measure"])[:3]
        ['loss', 'grad_norm', 'trace']
    """
    for name in measures:
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
    if not (math.isfinite(rho) and rho > 0):
        raise must_be("rho", "> 0", rho)
    if not (math.isfinite(damping) and damping > 0):
        raise must_be("damping", "> 0", damping)
    if top_k < 1:
        raise must_be("top_k", ">= 1", top_k)
    if hvps < 6:
        raise must_be("hvps", ">= 6", hvps)
    surface = LossSurface(model, loss_fn, data, params=params, batch_size=batch_size)
    session = _Session(surface, hvps, rho, damping, top_k, seed)
    with surface.session():
        _basics(session)
        for name, group in MEASURES.items():
            if name in measures:
                group(session)
    frame = pd.DataFrame(session.rows, columns=COLUMNS)
    return Card(frame, session.density, session.spectrum, session.notes)
