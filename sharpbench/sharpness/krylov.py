"""KrylovBasis: Lanczos with full re-orthogonalisation, restarts, and residuals that are bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .estimate import Array
from .operator import SymmetricOperator

# Consecutive chains that end at their first vector: the complement of the basis then looks like a
# multiple of the identity (or zero), and more of them teach nothing.
FRUITLESS_CHAINS = 2


@dataclass(frozen=True)
class RitzPairs:
    """Eigenvalue approximations, largest first, with residual norms ``||H v - theta v||``."""

    values: Array
    residuals: Array
    coefficients: Array


class KrylovBasis:
    """Orthonormal vectors Q spanned by Lanczos chains on H, and all that H does to them.

    It holds ``Q`` (rows, in the parameters' dtype), the projection ``M = Q^T H Q`` (float64) and, for the
    last vector of each chain, the leftover ``(I - QQ^T) H q``; every other column of that is zero. So

        H Q = Q M + R,   residual of a Ritz pair (theta, Q s):  ||H Q s - theta Q s|| = ||R s||,

    and an interval of that half width around theta holds an eigenvalue of H (Parlett, 1998, thm 4.5.1).
    A chain starts from a direction drawn uniformly, and vectors are orthogonalised twice against all others:
    without that, copies of converged eigenvalues ("ghosts") appear. When a chain ends early because its
    subspace is invariant, a new random one goes on in the complement, which finds repeated eigenvalues.

    Example:
        >>> from torch import nn
        >>> from sharpbench.sharpness import LossSurface
        >>> model = nn.Linear(3, 1, bias=False)
        >>> data = (torch.diag(torch.tensor([3.0, 6.0, 9.0])), torch.zeros(3, 1))
        >>> surface = LossSurface(model, lambda out, y: 0.5 * ((out - y) ** 2).mean(), data)
        >>> basis = KrylovBasis(surface, 3, torch.Generator().manual_seed(0))
        >>> basis.grow(3)
        3
        >>> [round(float(v), 3) for v in basis.ritz().values]  # X^T X / 3
        [27.0, 12.0, 3.0]
    """

    def __init__(self, surface: SymmetricOperator, capacity: int, generator: torch.Generator) -> None:
        self.surface = surface
        self.generator = generator
        self.capacity = min(capacity, surface.dimension)
        self.size = 0
        self.starts: list[int] = []
        self.leftovers: list[tuple[int, Tensor]] = []
        self._rows = torch.empty(self.capacity, surface.dimension, dtype=surface.dtype, device=surface.device)
        self._given: set[int] = set()
        self._projected = np.zeros((self.capacity, self.capacity))
        self._next: Tensor | None = None
        self._scale = 0.0

    @property
    def rows(self) -> Tensor:
        """The basis vectors as rows, shape ``(size, d)``."""
        return self._rows[: self.size]

    @property
    def projected(self) -> Array:
        """``M = Q^T H Q``, shape ``(size, size)``, float64."""
        return self._projected[: self.size, : self.size]

    @property
    def complete(self) -> bool:
        """Whether the basis spans the whole space, so that M has exactly the spectrum of H."""
        return self.size == self.surface.dimension

    @property
    def fruitless(self) -> bool:
        """Whether the last chains each ended at their first vector."""
        ends = [*self.starts[1:], self.size][: len(self.starts)]
        lengths = [end - start for start, end in zip(self.starts, ends, strict=True)]
        recent = lengths[-FRUITLESS_CHAINS:]
        return self._next is None and len(recent) == FRUITLESS_CHAINS and max(recent) == 1

    def start_at(self, row: Tensor) -> None:
        """Let the first chain of an empty basis begin at a given vector instead of random signs.

        Bounds for the distance of Ritz values from the ends of the spectrum need a Gaussian start: random
        signs can be orthogonal to an eigenvector with few entries.
        """
        self.starts.append(0)
        self._next = row.to(self._rows) / row.norm().to(self._rows)

    def restart(self) -> None:
        """Let the next vector begin a new chain, at random in the complement."""
        self._next = None

    def grow(self, steps: int) -> int:
        """Add up to ``steps`` vectors, one product with H each; returns how many were added."""
        added = 0
        with self.surface.session():
            while added < steps and self.size < self.capacity and not self.fruitless:
                self._append(self._next if self._next is not None else self._start())
                added += 1
        return added

    def include(self, rows: Tensor) -> int:
        """Add given directions, one product each, where they are not in the basis already."""
        added = 0
        with self.surface.session():
            for row in rows:
                if self.size >= self.capacity:
                    break
                rest, _ = self.project_out(row[None, :].to(self._rows))
                length = float(rest.norm())
                if length <= 0.1 * float(row.norm()):
                    continue
                self.restart()
                self.starts.append(self.size)
                self._given.add(self.size)
                self._append(rest[0] / length)
                added += 1
        self.restart()
        return added

    def outlying_vectors(self, count: int) -> Tensor:
        """The Ritz vectors of the ``count`` values largest in magnitude, as rows."""
        pairs = self.ritz()
        chosen = np.argsort(-np.abs(pairs.values))[:count]
        # Copied into PyTorch's own memory: matrix products may round by how their operands are aligned.
        coefficients = torch.tensor(pairs.coefficients[:, chosen]).to(self._rows)
        return coefficients.T @ self.rows

    def project_out(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """``(P v, Q^T v)`` for row vectors v, with ``P = I - Q Q^T`` applied twice against rounding."""
        basis = self.rows
        coefficients = rows @ basis.T
        rest = torch.addmm(rows, coefficients, basis, alpha=-1)
        again = rest @ basis.T
        return rest.addmm_(again, basis, alpha=-1), coefficients + again

    def coupling(self) -> tuple[list[int], Array]:
        """Columns of Q with a leftover, and the Gram matrix of those leftovers."""
        columns = [column for column, _ in self.leftovers]
        if not columns:
            return columns, np.zeros((0, 0))
        stacked = torch.stack([vector for _, vector in self.leftovers])
        return columns, (stacked @ stacked.T).double().cpu().numpy()

    def coupling_beyond(self, index: int) -> float:
        """``||(I - Q_k Q_k^T) H q_k||`` with ``Q_k`` the vectors up to ``index``: the way out of a chain."""
        inside = float((self.projected[index + 1 :, index] ** 2).sum())
        columns, gram = self.coupling()
        outside = 0.0
        if index in columns:
            place = columns.index(index)
            outside = float(gram[place, place])
        return math.sqrt(inside + outside)

    def random_chains(self) -> list[tuple[int, int]]:
        """First index and end of every chain that started at random (given directions are none)."""
        ends = [*self.starts[1:], self.size][: len(self.starts)]
        pairs = zip(self.starts, ends, strict=True)
        return [(start, end) for start, end in pairs if start not in self._given and end > start]

    def ritz(self) -> RitzPairs:
        """Ritz values of the whole basis, largest first, and their residual norms."""
        values, vectors = np.linalg.eigh(self.projected)
        values, vectors = values[::-1], vectors[:, ::-1]
        columns, gram = self.coupling()
        part = vectors[columns, :]
        squared = np.einsum("ik,ij,jk->k", part, gram, part) if columns else np.zeros(self.size)
        floor = self.rounding()
        return RitzPairs(values, np.sqrt(np.maximum(squared, 0.0)) + floor, vectors)

    def rounding(self) -> float:
        """What a product in the parameters' precision leaves uncertain in an eigenvalue."""
        return 20 * torch.finfo(self.surface.dtype).eps * self._scale

    # -- inside ---------------------------------------------------------------------------------

    def _start(self) -> Tensor:
        shape = (1, self.surface.dimension)
        self.starts.append(self.size)
        rest = torch.zeros(shape).to(self._rows)
        # In a few dimensions a draw may lie almost inside the basis: its rest is then mostly rounding.
        while float(rest.norm()) < 1e-3:
            rest, _ = self.project_out(torch.randn(shape, generator=self.generator).to(self._rows))
        start: Tensor = rest[0] / rest.norm()
        return start

    def _append(self, vector: Tensor) -> None:
        if self.leftovers and self._next is not None:
            self.leftovers.pop()  # its direction is now in the basis
        self.leftovers = [(c, r - vector * (vector @ r)) for c, r in self.leftovers]
        index = self.size
        self._rows[index] = vector
        self.size += 1
        product = self.surface.hvp(vector)
        rest, coefficients = self.project_out(product[None, :])
        column = coefficients[0].double().cpu().numpy()
        self._projected[: self.size, index] = column
        self._projected[index, : self.size] = column
        self._scale = max(self._scale, float(np.abs(column).max()))
        length = float(rest.norm())
        # Below this the leftover is the rounding of the product, not a direction of H.
        negligible = 10 * torch.finfo(self._rows.dtype).eps * math.sqrt(self.size) * self._scale
        if length <= negligible or self.complete:
            self._next = None
        else:
            self._next = rest[0] / length
            self.leftovers.append((index, rest[0]))
