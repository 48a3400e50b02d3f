"""Random sign vectors: of the basis' complement, or drawn before there is a basis."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .estimate import Array
from .krylov import KrylovBasis


def probe(basis: KrylovBasis, count: int, generator: torch.Generator) -> Array:
    """``(||p||², p^T H p, ||P H p||²)`` for fresh Rademacher probes of the complement, shape (count, 3)."""
    found = []
    chunk = max(1, min(count, 64))
    for start in range(0, count, chunk):
        rows, _ = basis.project_out(_signs(basis, min(chunk, count - start), generator))
        found.append(_moments(basis, rows, basis.surface.hvp(rows.T).T))
    return np.vstack(found)


def sign_products(basis: KrylovBasis, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rademacher vectors z as rows, and H z."""
    signs = _signs(basis, count, generator)
    return signs, basis.surface.hvp(signs.T).T


def restricted(basis: KrylovBasis, signs: Tensor, products: Tensor) -> Array:
    """What :func:`probe` finds, of vectors whose products came before the basis: H p = H z - H Q Q^T z."""
    rows, coefficients = basis.project_out(signs)
    # H Q = Q M + R, of which Q M is projected out.
    for column, leftover in basis.leftovers:
        products = products - coefficients[:, column, None] * leftover
    return _moments(basis, rows, basis.project_out(products)[0])


def fourth_moment(basis: KrylovBasis, products: Tensor) -> tuple[float, float]:
    """``(sum lambda^4, sum lambda^2)``, by Hutchinson's products alone.

    For independent z, z', ``E (Hz . Hz')^2 = sum lambda^4`` and ``E ||Hz||^2 = sum lambda^2``: n products
    hold n (n - 1) / 2 pairs, for nothing. The start of the basis' only chain, of one vector, is one of them.
    """
    start = basis.projected[0, 0] * basis.rows[0] + sum(leftover for _, leftover in basis.leftovers)
    rows = torch.vstack([products, start[None, :] * basis.surface.dimension**0.5])
    gram = (rows @ rows.T).double().cpu().numpy()
    own = np.diag(gram)
    pairs = len(own) * (len(own) - 1)
    return float((np.square(gram).sum() - np.square(own).sum()) / pairs), float(own.mean())


def _signs(basis: KrylovBasis, count: int, generator: torch.Generator) -> Tensor:
    size = (count, basis.surface.dimension)
    signs = torch.randint(0, 2, size, generator=generator, dtype=torch.float32)
    return signs.mul_(2).sub_(1).to(basis.rows)


def _moments(basis: KrylovBasis, rows: Tensor, products: Tensor) -> Array:
    outside, _ = basis.project_out(products)
    columns = ((rows * rows).sum(1), (rows * products).sum(1), (outside * outside).sum(1))
    return np.asarray(torch.stack(columns, dim=1).double().cpu().numpy())
