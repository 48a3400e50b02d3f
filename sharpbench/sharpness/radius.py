"""LossDifferences: samples of (phi, psi, mu)-sharpness from loss values at a radius."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..functionals import UniversalMeasure, estimate
from ..laws import Gaussian, Law
from .estimate import Array, Estimate, jackknife
from .forms import estimate_from, exact_value
from .krylov import KrylovBasis
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
    """

    samples: Array
    controls: Array | None = None
    spectrum: Array | None = None

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
        base = surface.loss()
        for start in range(0, n, CHUNK):
            rows = draw_rows(surface, law, min(CHUNK, n - start), generator)
            ahead = surface.losses_at(rho * rows.T).numpy()
            if antithetic:
                behind = surface.losses_at(-rho * rows.T).numpy()
                samples.append((ahead + behind - 2 * base) / (2 * rho**2))
            else:
                samples.append((ahead - base) / rho**2)
            if known is not None:
                rest, inside = known.project_out(rows)
                a = inside.double().cpu().numpy()
                form = 0.5 * np.einsum("ni,ij,nj->n", a, known.projected, a)
                for column, leftover in known.leftovers:
                    form += a[:, column] * (rest @ leftover).double().cpu().numpy()
                controls.append(form)
        if known is None or not isinstance(law, Gaussian):
            return cls(np.concatenate(samples))
        return cls(np.concatenate(samples), np.concatenate(controls), law.scale**2 * _form_spectrum(known))

    def scaled(self, scale: float) -> LossDifferences:
        """The same displacements drawn as ``(rho / scale) (scale u)``: forms grow by scale²."""
        s2 = scale * scale
        controls = None if self.controls is None else s2 * self.controls
        spectrum = None if self.spectrum is None else s2 * self.spectrum
        return LossDifferences(s2 * self.samples, controls, spectrum)

    def estimate(self, measure: UniversalMeasure, name: str) -> Estimate:
        """The measure, bias-corrected, with its jackknife error and t-interval."""
        truth = None if self.spectrum is None else exact_value(measure, self.spectrum, seed=0)
        if truth is None or self.controls is None:
            return estimate_from(measure, self.samples[:, None], name)
        known = truth
        both = torch.from_numpy(np.stack([self.samples, self.controls]))

        def statistic(kept: NDArray[np.intp]) -> float:
            chosen = both[:, torch.as_tensor(kept)]
            return float(estimate(measure, chosen[0]) - estimate(measure, chosen[1])) + known

        value, error, degrees = jackknife(statistic, len(self.samples))
        return Estimate.from_error(name, value, error, degrees)


def draw_rows(surface: LossSurface, law: Law, count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` draws of u as rows, shape ``(count, d)``."""
    draws = [law.sample(surface.parameters, generator) for _ in range(count)]
    rows = [torch.cat([piece.reshape(-1) for piece in draw]) for draw in draws]
    return torch.stack(rows).detach().to(surface.device, surface.dtype)


def _form_spectrum(basis: KrylovBasis) -> Array:
    """Eigenvalues of ``[[M, R^T], [R, 0]]``, with R in an orthonormal frame of the leftovers."""
    columns, gram = basis.coupling()
    size, extra = basis.size, len(columns)
    block = np.zeros((size + extra, size + extra))
    block[:size, :size] = basis.projected
    if extra:
        sizes, vectors = np.linalg.eigh(gram)
        root = np.sqrt(np.maximum(sizes, 0.0))[:, None] * vectors.T  # R = frame root, root^T root = gram
        block[size:, columns] = root
        block[columns, size:] = root.T
    return np.asarray(np.linalg.eigvalsh(block), dtype=np.float64)
