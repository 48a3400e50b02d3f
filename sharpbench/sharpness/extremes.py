"""How far out an eigenvalue can lie that a pass has not seen: bounds from the randomness of its vectors.

For a unit vector u and a random one b of dimension d, ``(u . b)^2 ~ Beta(1/2, (d-1)/2)`` is rarely much
smaller than 1/d. So every eigenvector leaves a trace, both in the Lanczos chain that starts at b and in
products with random probes, and what would leave more of a trace than there is can be excluded with a
probability that is known.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from .estimate import Array
from .krylov import KrylovBasis

# Each bound fails with at most this probability. A pass combines up to three, so an interval made of them
# holds in more than 98 % of all passes.
FAILURE = 0.005


def random_start_bound(diagonal: Array, couplings: Array, dimension: int, failure: float = FAILURE) -> float:
    """A bound on lambda_max from one Lanczos chain with a random start.

    With ``p_0, ..., p_m`` the orthonormal polynomials of the chain, a start b with ``(u . b)^2 = w`` in the
    direction of an eigenvector of mu has ``w sum_j p_j(mu)^2 <= 1``: the largest mass at mu that the chain's
    moments allow (the Christoffel function). The bound is the largest mu for which this mass is not below the
    ``failure``-quantile of ``(u . b)^2``.

    Args:
        diagonal: the chain's coefficients alpha_1 ... alpha_m, shape ``(m,)``.
        couplings: beta_2 ... beta_{m+1}, shape ``(m,)``; the last one leads out of the chain.
        dimension: d, of the space in which the start was drawn.
        failure: the probability with which the bound may fail.

    Source: van Dorsselaer, Hochstenbach & van der Vorst (2000), SIAM J. Matrix Anal. Appl. 22(3).

    >>> bound = random_start_bound(np.zeros(40), np.full(40, 0.5), 3000)  # the semicircle on [-1, 1]
    >>> 1.0 < bound < 1.05
    True
    """
    limit = 1.0 / _least_overlap(dimension, failure)
    if len(diagonal) > 1:
        start = float(_largest_node(diagonal, couplings[:-1]))
    else:
        start = float(diagonal[0])
    width = max(float(np.abs(couplings).max()), 1e-12 * abs(start))
    if _christoffel_sum(start, diagonal, couplings, limit) >= limit:
        # The Ritz value itself has less weight than an eigenvalue can be expected to have: a rare start.
        return np.inf
    low, step = start, 1e-3 * width
    while _christoffel_sum(low + step, diagonal, couplings, limit) < limit:
        low, step = low + step, 2 * step
    high = low + step
    for _ in range(50):
        middle = 0.5 * (low + high)
        if _christoffel_sum(middle, diagonal, couplings, limit) < limit:
            low = middle
        else:
            high = middle
    return high


def gram_bound(gram: Array, failure: float = FAILURE) -> float:
    """A bound on the largest abs(lambda) of C from the Gram matrix of products ``C p_i`` with random probes.

    With u the eigenvector of lambda and ``z_i = u . p_i ~ N(0, 1)``, the matrix ``G_ij = (C p_i) . (C p_j)``
    is ``lambda^2 z z^T`` plus a positive semi-definite matrix, so ``lambda^2 |z|^2 <= lambda_max(G)``. Its
    off-diagonal part, of which the expected sum of squares is ``n (n-1) tr C^4``, holds ``lambda^2 z_i z_j``.
    The bound is the lower of both, each with a quantile of the z in the denominator.

    >>> 2.0 < gram_bound(4.0 * np.ones((30, 30))) < 3.0  # one eigenvalue, 2, and z = 1 for each probe
    True
    """
    n = len(gram)
    if n == 0:
        return np.inf
    whole = float(np.linalg.eigvalsh(gram)[-1]) / _squares_quantile(n, failure)
    bound = float(np.sqrt(max(whole, 0.0)))
    pairs = n * (n - 1)
    # The other eigenvalues' part of G may cancel some of lambda^2 z z^T: by a normal deviate of up to 2.8.
    allowance = 1 - 2 * 2.8**2 / pairs if pairs else 0.0
    if allowance > 0.1:
        outside = float(np.square(gram).sum() - np.square(np.diag(gram)).sum())
        bound = min(bound, (outside / (_pairs_quantile(n, failure) * allowance)) ** 0.25)
    return bound


def complement_bounds(basis: KrylovBasis, gram: Array) -> tuple[float, float]:
    """``(a, b)`` with ``-a <= lambda <= b`` for every eigenvalue of ``P H P``, P the basis' complement.

    Every chain that started at random bounds what it could not see: the first one H itself, later ones the
    complement of the basis before them. Products with probes of the complement bound it too.
    """
    if basis.complete:
        return 0.0, 0.0
    both = gram_bound(gram)
    low, high = both, both
    for start, end in basis.random_chains():
        diagonal, couplings = chain_coefficients(basis, start, end)
        dimension = basis.surface.dimension - start
        high = min(high, random_start_bound(diagonal, couplings, dimension))
        low = min(low, random_start_bound(-diagonal, couplings, dimension))
    slack = basis.rounding()
    # P H P has the eigenvalue 0 on the basis itself.
    return max(low, 0.0) + slack, max(high, 0.0) + slack


def chain_coefficients(basis: KrylovBasis, start: int, end: int) -> tuple[Array, Array]:
    """Diagonal and couplings of the chain of basis vectors ``start ... end-1``, the last one outwards."""
    block = basis.projected[start:end, start:end]
    # Of a matrix of zeros not even rounding is left; the bound then lies at zero but for this.
    outward = max(basis.coupling_beyond(end - 1), basis.rounding(), 1e-150)
    return np.diag(block).copy(), np.append(np.abs(np.diag(block, 1)), outward)


def outer_bounds(basis: KrylovBasis, count: int, complement: float, sign: float = 1.0) -> Array:
    """Bounds on lambda_1 ... lambda_count of H, where ``P H P`` has no eigenvalue above ``complement``.

    With ``sign = -1``, of -H.

    In the basis Q and its complement, ``H = [[M, R^T], [R, C]] <= [[M, R^T], [R, c I]]``, whose eigenvalues
    are those of a matrix of the size of M and a few columns, and c. Above c the bound exceeds a Ritz value by
    only about the square of its residual. None exceeds what the first chain says of lambda_1.
    """
    columns, gram = basis.coupling()
    values, vectors = np.linalg.eigh(gram) if columns else (np.zeros(0), np.zeros((0, 0)))
    kept = values > 0
    size, extra = basis.size, int(kept.sum())
    bordered = np.zeros((size + extra, size + extra))
    bordered[:size, :size] = sign * basis.projected
    border = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    bordered[size:, columns] = border
    bordered[columns, size:] = border.T
    bordered[range(size, size + extra), range(size, size + extra)] = complement
    found = np.linalg.eigvalsh(bordered)[::-1]
    if len(found) < count:
        found = np.append(found, np.full(count - len(found), -np.inf))
    bounds = np.maximum(found[:count], complement)
    chains = basis.random_chains()
    if chains and chains[0][0] == 0 and not basis.complete:
        diagonal, couplings = chain_coefficients(basis, *chains[0])
        bounds = np.minimum(bounds, random_start_bound(sign * diagonal, couplings, basis.surface.dimension))
    return np.asarray(bounds + basis.rounding())


def _christoffel_sum(x: float, diagonal: Array, couplings: Array, limit: float) -> float:
    """``sum_j p_j(x)^2`` over j = 0 ... m, left off once it exceeds ``limit``."""
    before, here, total = 0.0, 1.0, 1.0
    back = 0.0
    for alpha, beta in zip(diagonal, couplings, strict=True):
        before, here = here, ((x - alpha) * here - back * before) / max(beta, 1e-150)
        back = beta
        if not abs(here) < 1e100:
            return np.inf
        total += here * here
        if total > limit:
            break
    return total


def _largest_node(diagonal: Array, couplings: Array) -> float:
    matrix = np.diag(diagonal) + np.diag(couplings, 1) + np.diag(couplings, -1)
    return float(np.linalg.eigvalsh(matrix)[-1])


@lru_cache(maxsize=256)
def _least_overlap(dimension: int, failure: float) -> float:
    if dimension < 2:
        return 1.0
    return float(special.betaincinv(0.5, 0.5 * (dimension - 1), failure))


@lru_cache(maxsize=256)
def _squares_quantile(count: int, failure: float) -> float:
    """The lower quantile of chi-squared with ``count`` degrees of freedom."""
    return float(2 * special.gammaincinv(0.5 * count, failure))


@lru_cache(maxsize=256)
def _pairs_quantile(count: int, failure: float) -> float:
    """The lower quantile of ``sum_{i != j} z_i^2 z_j^2`` for standard normal z, by simulation."""
    squares = np.random.default_rng(0).standard_normal((20_000, count)) ** 2
    found = squares.sum(1) ** 2 - (squares**2).sum(1)
    return float(np.quantile(found, failure))
