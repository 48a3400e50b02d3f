"""LossDifferences: samples of (phi, psi, mu)-sharpness from loss values at a radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..functionals import UniversalMeasure
from ..laws import Gaussian, Law
from .estimate import Array, Estimate
from .krylov import KrylovBasis
from .precise import PreciseLosses
from .quadratic import form_spectrum
from .samples import Control, estimate_samples
from .surface import LossSurface

CHUNK = 32


@dataclass(frozen=True)
class LossDifferences:
    """Samples ``Delta(u_i)`` and, with a Krylov basis, of the quadratic form it knows on the same draws.

    The form is ``u^T (QMQ^T + QR^T + RQ^T) u / 2``; its functional is known exactly, so it serves as control
    variate: ``S(Delta) - S_n(form) + S(form)``.

    Args:
        samples: shape ``(n,)``.
        controls: shape ``(n,)``, or ``None``.
        spectrum: eigenvalues of the control's form for the law's own scale, or ``None``.
        rounding: a bound on what rounding of the losses leaves in each sample.
        note: the precision of the losses, where it is not float64.
    """

    samples: Array
    controls: Array | None = None
    spectrum: Array | None = None
    rounding: float = 0.0
    note: str = ""

    @classmethod
    def draw(
        cls,
        surface: LossSurface,
        law: Law,
        rho: float,
        n: int,
        antithetic: bool,
        generator: torch.Generator,
        basis: KrylovBasis | None = None,
    ) -> LossDifferences:
        """Draw n directions from ``law`` and evaluate the losses (a basis is used for Gaussian laws only)."""
        samples, controls = [], []
        known = basis if isinstance(law, Gaussian) else None
        losses = PreciseLosses(surface)
        for start in range(0, n, CHUNK):
            rows = draw_rows(surface.parameters, law, min(CHUNK, n - start), generator)
            rows = rows.to(surface.device, surface.dtype)
            ahead = losses.losses_at(rho * rows.T).numpy()
            if antithetic:
                behind = losses.losses_at(-rho * rows.T).numpy()
                samples.append((ahead + behind - 2 * losses.base) / (2 * rho**2))
            else:
                samples.append((ahead - losses.base) / rho**2)
            if known is not None:
                rest, inside = known.project_out(rows)
                a = inside.double().cpu().numpy()
                form = 0.5 * np.einsum("ni,ij,nj->n", a, known.projected, a)
                for column, leftover in known.leftovers:
                    form += a[:, column] * (rest @ leftover).double().cpu().numpy()
                controls.append(form)
        found = cls(np.concatenate(samples), rounding=2 * losses.rounding / rho**2, note=losses.note())
        if known is None or not isinstance(law, Gaussian):
            return found
        return replace(found, controls=np.concatenate(controls), spectrum=_spectrum(known, law.scale))

    def scaled(self, scale: float) -> LossDifferences:
        """The same displacements drawn as ``(rho / scale) (scale u)``: forms grow by scale²."""
        s2 = scale * scale
        controls = None if self.controls is None else s2 * self.controls
        spectrum = None if self.spectrum is None else s2 * self.spectrum
        return LossDifferences(s2 * self.samples, controls, spectrum, s2 * self.rounding, self.note)

    def estimate(self, measure: UniversalMeasure, name: str) -> Estimate:
        """The measure, bias-corrected, with the interval of
        :func:`~sharpbench.sharpness.samples.estimate_samples`.
        """
        control = None
        if self.controls is not None and self.spectrum is not None:
            control = Control(self.controls, self.spectrum)
        return estimate_samples(
            measure, self.samples, name, control=control, rounding=self.rounding, note=self.note
        )


def draw_rows(like: Sequence[torch.Tensor], law: Law, count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` draws of u, shaped like the given parameters, as rows of shape ``(count, d)``."""
    draws = [law.sample(like, generator) for _ in range(count)]
    rows = [torch.cat([piece.reshape(-1) for piece in draw]) for draw in draws]
    return torch.stack(rows).detach()


def _spectrum(basis: KrylovBasis, scale: float) -> Array:
    columns, gram = basis.coupling()
    return scale**2 * form_spectrum(basis.projected, columns, gram)
