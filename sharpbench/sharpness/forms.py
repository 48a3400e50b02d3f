"""QuadraticForms: Gaussian q = u^T H u / 2 with the Krylov part integrated instead of sampled."""

from __future__ import annotations

import numpy as np
import torch

from ..functionals import UniversalMeasure
from .estimate import Array, Estimate
from .krylov import KrylovBasis
from .log_det import lanczos_bounds, log_det_bounds
from .operator import SymmetricOperator
from .power_sums import Bounded, GramBlock, PowerSums
from .psi import Exponential, Polynomial, psi_kind
from .quadratic import estimate_other, from_bounds, functional_of_sums

# Probes whose Gram matrix is formed at once; more are taken in blocks of this many.
BLOCK = 64


class QuadraticForms:
    """What a Krylov basis and Gaussian probes of its complement say of ``q = u^T H u / 2``, ``u ~ N(0, I)``.

    With ``P = I - QQ^T``, ``u = Q a + p``, ``p = P u``, ``M = Q^T H Q``, ``R = P H Q`` and ``B = P H P``,

        q = (a^T M a + 2 a^T R^T p + p^T B p) / 2,     a ~ N(0, I_m) independent of p,

    M and R are known exactly: the outlying eigenvalues, which make plain Monte-Carlo means of q² or exp(-q)
    so wide, are there. Of B, the products ``B p`` hold more than the numbers ``p^T B p``: their Gram
    matrices give tr B, tr B², tr B³ and bounds on its eigenvalues
    (:class:`~sharpbench.sharpness.power_sums.PowerSums`). So

    - a psi that is a polynomial (degree at most 3) has a functional of the power sums ``tr H^k``;
    - for ``psi = exp(-r t)``, ``E psi = det(I + r H)^(-1/2)``, where
      ``det(I + r H) = det(I + r M) det(I + S)``, ``S = r B - r² R (I + r M)^-1 R^T``, and log det(I + S)
      has the bounds of :func:`~sharpbench.sharpness.log_det.log_det_bounds`;
    - any other psi is averaged over draws of a, and over what the distribution of p^T B p may be.

    Args:
        surface: the operator H.
        basis: of the same operator.
        count: how many probes, one product each.
        generator: of the probes.
        isotropic: the basis' first chain began at a Gaussian vector and was never restarted before so many
            steps: how far the spectrum may reach beyond its Ritz values is then known.
    """

    def __init__(
        self,
        surface: SymmetricOperator,
        basis: KrylovBasis,
        count: int,
        generator: torch.Generator,
        *,
        isotropic: bool = False,
    ) -> None:
        before = surface.hvps
        self.surface = surface
        self.basis = basis
        self.isotropic = isotropic
        self.projected = np.array(basis.projected)
        self.columns, self.gram = basis.coupling()
        self.rest = 0 if basis.complete else surface.dimension - basis.size
        self.count = count if self.rest else 0
        self.blocks: list[GramBlock] = []
        #: of each block: p^T R and (B p)^T R for the columns of R that are not zero
        self.couplings: list[tuple[Array, Array]] = []
        self._inner: Array | None = None
        for start in range(0, self.count, BLOCK):
            self._draw(min(BLOCK, self.count - start), generator)
        self.hvps = surface.hvps - before
        self.seed = int(torch.randint(0, 2**31, (), generator=generator))

    def _draw(self, count: int, generator: torch.Generator) -> None:
        size = (count, self.surface.dimension)
        rows = torch.randn(size, generator=generator, dtype=self.surface.dtype).to(self.surface.device)
        rows, _ = self.basis.project_out(rows)
        products, _ = self.basis.project_out(self.surface.hvp(rows.T).T.contiguous())
        zeroth, first, second = (
            _gram(a, b) for a, b in ((rows, rows), (rows, products), (products, products))
        )
        self.blocks.append(GramBlock(zeroth, 0.5 * (first + first.T), second))
        if self.columns:
            leftovers = torch.stack([vector for _, vector in self.basis.leftovers])
            self.couplings.append((_gram(rows, leftovers), _gram(products, leftovers)))
        else:
            self.couplings.append((np.zeros((count, 0)), np.zeros((count, 0))))

    # -- estimates ------------------------------------------------------------------------------

    def estimate(
        self, measure: UniversalMeasure, scale: float, name: str, hvps: int, *, radius: float | None = None
    ) -> Estimate:
        """The measure for ``u ~ N(0, scale² I)``; for u uniform on a sphere of the given radius instead."""
        s2 = scale * scale
        kind = psi_kind(measure)
        if isinstance(kind, Polynomial):
            sums = [self.power_sum(k).times(s2**k) for k in range(1, kind.degree + 1)]
            value = functional_of_sums(measure, kind, sums, self.surface.dimension, radius)
            return from_bounds(name, value, hvps, self._note())
        if isinstance(kind, Exponential) and radius is None:
            return self._determinant(measure, kind, s2, name, hvps)
        return estimate_other(self, measure, scale, name, hvps, radius)

    def power_sum(self, order: int) -> Bounded:
        """``tr H^order`` for order 1 to 3, with its interval; the third takes a few products."""
        m, gram = self.projected, self.gram
        known = float(np.trace(np.linalg.matrix_power(m, order)))
        rounding = self.basis.rounding() * float(np.sqrt((np.linalg.eigvalsh(m) ** (2 * order - 2)).sum()))
        if order > 1 and self.columns:
            block = gram if order == 2 else 1.5 * m[np.ix_(self.columns, self.columns)] @ gram
            known += 2 * float(np.trace(block))
        if order == 3 and self.columns:
            known += 3 * float(np.trace(self._inner_block()))
        if not self.count:
            return Bounded(known, known, known).widened(order * rounding)
        sums = PowerSums(self.blocks, self.rest)
        return ((sums.trace, sums.square, sums.cube)[order - 1]() + known).widened(order * rounding)

    def _inner_block(self) -> Array:
        """``R^T B R``, from one product with each column of R that is not zero."""
        if self._inner is None:
            before = self.surface.hvps
            leftovers = torch.stack([vector for _, vector in self.basis.leftovers])
            products, _ = self.basis.project_out(self.surface.hvp(leftovers.T).T.contiguous())
            self._inner = _gram(leftovers, products)
            self.hvps += self.surface.hvps - before
        return self._inner

    def _determinant(
        self, measure: UniversalMeasure, kind: Exponential, s2: float, name: str, hvps: int
    ) -> Estimate:
        rate = kind.rate * s2
        values, vectors = np.linalg.eigh(rate * self.projected)
        limit = f"lambda_{'min' if rate > 0 else 'max'} {'<=' if rate > 0 else '>='} {-1 / rate:.4g}"
        if values.min(initial=0.0) <= -1:
            seen = values.min() / rate
            return Estimate.undefined(name, f"infinite: {limit}, a Ritz value is {seen:.4g}", hvps=hvps)
        found = float(np.log1p(values).sum())
        # d log det = sum d mu / (1 + mu)
        rounding = abs(rate) * self.basis.rounding() * float(np.sqrt(((1 + values) ** -2).sum()))
        if not self.count:
            exact = Bounded(found, found, found).widened(rounding)
            return from_bounds(name, _mapped(measure, kind, exact), hvps, self._note())
        inverse = (vectors / (1 + values)) @ vectors.T
        sums = PowerSums(self._schur(rate, inverse), self.rest)
        seen = sums.range()[0]
        if seen <= -1:
            return Estimate.undefined(name, f"infinite: {limit}, seen in the span of the probes", hvps=hvps)
        bottom, top = self._ends(rate, sums)
        bounds = (log_det_bounds(sums, bottom, top) + found).widened(rounding)
        note = self._note()
        if bottom <= -1:
            note = f"{limit} is not excluded, where the functional is infinite; {note}"
        return from_bounds(name, _mapped(measure, kind, bounds), hvps, note)

    def _schur(self, rate: float, inverse: Array) -> list[GramBlock]:
        """Gram matrices of ``S = rate B - rate² R (I + rate M)^-1 R^T`` with the probes."""
        small = inverse[np.ix_(self.columns, self.columns)]
        found = []
        for block, (near, far) in zip(self.blocks, self.couplings, strict=True):
            first = rate * block.first - rate**2 * near @ small @ near.T
            mixed = near @ small @ far.T
            second = rate**2 * block.second - rate**3 * (mixed + mixed.T)
            second += rate**4 * near @ small @ self.gram @ small @ near.T
            found.append(GramBlock(block.zeroth, first, second))
        return found

    def _ends(self, rate: float, sums: PowerSums) -> tuple[float, float]:
        """Bounds on the eigenvalues of S: by tr S⁴, and by the Ritz values of an isotropic chain."""
        reach = sums.fourth_bound() ** 0.25
        bottom, top = -reach, reach
        if self.isotropic:
            values = np.linalg.eigvalsh(rate * self.projected)
            starts = self.basis.starts
            # A chain that ended by itself has found every eigenvalue its start has a part in: all of them.
            beyond = 0.0
            if len(starts) < 2 and not self.basis.fruitless:
                beyond = lanczos_bounds(
                    np.asarray(values, dtype=np.float64), self.basis.size, self.surface.dimension
                )
            beyond += abs(rate) * self.basis.rounding()
            # (I + S)^-1 is a block of (I + rate H)^-1, and S <= rate B.
            bottom, top = max(bottom, values.min() - beyond), min(top, values.max() + beyond)
        return bottom, top

    def _note(self) -> str:
        return f"{self.basis.size} Krylov vectors, {self.count} probes" if self.count else ""


def _mapped(measure: UniversalMeasure, kind: Exponential, log_det: Bounded) -> Bounded:
    """The functional of a determinant between two bounds; monotone in it."""
    ends = [kind.functional(measure, end) for end in (log_det.low, log_det.high)]
    return Bounded(min(ends), kind.functional(measure, log_det.value), max(ends))


def _gram(a: torch.Tensor, b: torch.Tensor) -> Array:
    return np.asarray((a @ b.T).double().cpu().numpy())
