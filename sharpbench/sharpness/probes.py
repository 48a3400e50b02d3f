"""Random sign vectors: of the basis' complement, or drawn before there is a basis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .estimate import Array
from .krylov import KrylovBasis

CHUNK = 64


@dataclass(frozen=True)
class Probes:
    """What probes p and their products with H say of the complement ``C = P H P``.

    Args:
        moments: ``(||p||², p^T H p, ||C p||²)`` for each probe, shape ``(n, 3)``.
        grams: for each chunk of probes, ``p_i . p_j`` and ``C p_i . C p_j``.
    """

    moments: Array
    grams: tuple[tuple[Array, Array], ...] = ()

    @classmethod
    def none(cls) -> Probes:
        """No probes yet."""
        return cls(np.zeros((0, 3)))

    def __len__(self) -> int:
        return len(self.moments)

    def and_more(self, other: Probes) -> Probes:
        """These and further ones."""
        return Probes(np.vstack([self.moments, other.moments]), self.grams + other.grams)

    def gram(self) -> Array:
        """``C p_i . C p_j`` of the largest chunk."""
        return max((products for _, products in self.grams), key=len, default=np.zeros((0, 0)))

    def fourth_moment(self, dimension: int) -> float:
        """``tr C^4``, by pairs of probes: ``E (C p . C p')^2``, as a ratio to ``E (p . p')^2 = dimension``.

        ``nan`` with fewer than two probes in any chunk.
        """
        above = sum(_off_diagonal(products) for _, products in self.grams)
        below = sum(_off_diagonal(vectors) for vectors, _ in self.grams)
        return dimension * above / below if below > 0 else float("nan")


def probe(basis: KrylovBasis, count: int, generator: torch.Generator) -> Probes:
    """Fresh Rademacher probes of the complement, one product with H each."""
    found = Probes.none()
    for start in range(0, count, CHUNK):
        rows, _ = basis.project_out(_signs(basis, min(CHUNK, count - start), generator))
        found = found.and_more(_probes(basis, rows, basis.surface.hvp(rows.T).T))
    return found


def sign_products(basis: KrylovBasis, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rademacher vectors z as rows, and H z."""
    signs = _signs(basis, count, generator)
    return signs, basis.surface.hvp(signs.T).T


def restricted(basis: KrylovBasis, signs: Tensor, products: Tensor) -> Probes:
    """What :func:`probe` finds, of vectors whose products came before the basis: H p = H z - H Q Q^T z."""
    rows, coefficients = basis.project_out(signs)
    # H Q = Q M + R, of which Q M is projected out.
    for column, leftover in basis.leftovers:
        products = products - coefficients[:, column, None] * leftover
    return _probes(basis, rows, basis.project_out(products)[0])


def fourth_moment(basis: KrylovBasis, products: Tensor) -> tuple[float, float]:
    """``(sum lambda^4, sum lambda^2)``, by Hutchinson's products alone.

    For independent z, z', ``E (Hz . Hz')^2 = sum lambda^4`` and ``E ||Hz||^2 = sum lambda^2``: n products
    hold n (n - 1) / 2 pairs, for nothing. The start of the basis' only chain, of one vector, is one of them.
    """
    start = basis.projected[0, 0] * basis.rows[0] + sum(leftover for _, leftover in basis.leftovers)
    rows = torch.vstack([products, start[None, :] * basis.surface.dimension**0.5])
    gram = _gram(rows)
    own = np.diag(gram)
    pairs = len(own) * (len(own) - 1)
    return _off_diagonal(gram) / pairs, float(own.mean())


def _signs(basis: KrylovBasis, count: int, generator: torch.Generator) -> Tensor:
    size = (count, basis.surface.dimension)
    signs = torch.randint(0, 2, size, generator=generator, dtype=torch.float32)
    return signs.mul_(2).sub_(1).to(basis.rows)


def _probes(basis: KrylovBasis, rows: Tensor, products: Tensor) -> Probes:
    outside, _ = basis.project_out(products)
    columns = ((rows * rows).sum(1), (rows * products).sum(1), (outside * outside).sum(1))
    moments = np.asarray(torch.stack(columns, dim=1).double().cpu().numpy())
    return Probes(moments, ((_gram(rows), _gram(outside)),))


def _gram(rows: Tensor) -> Array:
    return np.asarray((rows @ rows.T).double().cpu().numpy())


def _off_diagonal(gram: Array) -> float:
    return float(np.square(gram).sum() - np.square(np.diag(gram)).sum())
