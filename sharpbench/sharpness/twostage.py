"""The two-stage pass: a Krylov basis, then random probes of its complement."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch

from .estimate import Array
from .krylov import KrylovBasis
from .operator import SymmetricOperator
from .probed import ProbedSpectrum
from .probes import Probes, fourth_moment, probe, restricted, sign_products
from .quadrature import ChainQuadrature
from .spectrum import Spectrum

KRYLOV_SHARE = 0.7
# Steps after which the pass first asks whether there are outliers worth finding.
FIRST_LOOK = 0.1
# Up to this budget the probes are asked first: even the shortest look along a chain costs too many of them.
PROBES_FIRST = 40
# With outliers, fewer steps than this share give neither five eigenvalues nor a quadrature worth its name.
LEAST_SHARE = 0.45
# An outlier takes about so many steps: its square must be worth as many probes.
OUTLIER_SHARE = 6.0
# The same where eigenvalues were asked for: one that is worth a probe and a half is no part of a bulk.
ASKED_SHARE = 1.5
# A Ritz value with this relative residual is off by about its square.
SETTLED = 0.1
# With so much of the norm captured, LEAST_SHARE of the products spent on it still leaves a better trace.
MOST_OF_NORM = 0.6
PROBE_ROUND = 10
WARM_VECTORS = 8


def measure_two_stage(
    surface: SymmetricOperator,
    hvps: int,
    generator: torch.Generator,
    tolerance: float | None,
    eigenvalues: int = 0,
    warm: Spectrum | None = None,
) -> Spectrum:
    """Krylov stage, a second short chain, then probes: at most ``hvps`` products.

    Of up to 40 products, with no eigenvalues asked for, the probes that are drawn in any case come first:
    where they rule outliers out, all products are probes.
    """
    before = surface.hvps
    most = max(4, int(KRYLOV_SHARE * hvps))
    guard = max(1, min(6, hvps // 12))
    earlier = warm.basis.outlying_vectors(min(WARM_VECTORS, most // 2)) if _has_basis(warm) else None
    reserved = guard + (0 if earlier is None else len(earlier))
    basis = KrylovBasis(surface, most, generator)
    few = most < hvps <= min(PROBES_FIRST, surface.dimension)
    first, probes_only = None, False
    with surface.session():
        if few and earlier is None and tolerance is None and not eigenvalues:
            basis.grow(1)
            first = sign_products(basis, hvps - most, generator)
            fourth, second = fourth_moment(basis, first[1])
            # lambda_1^4 <= sum lambda^4: no eigenvalue can be worth finding.
            probes_only = 0 < fourth < (OUTLIER_SHARE / hvps * second) ** 2
        outliers = not probes_only and _grow_while_it_pays(
            basis, max(2, most - reserved), hvps, guard, tolerance, eigenvalues
        )
        chain = basis.size if len(basis.starts) < 2 else basis.starts[1]
        if earlier is not None:
            basis.include(earlier)
        # Without outliers no eigenvalue is counted as known, and no copy of one need be looked for.
        if outliers:
            _second_chain(basis, guard, most)
        left = hvps - (surface.hvps - before)
        probes = Probes.none() if first is None else restricted(basis, *first)
        rounds = left if tolerance is None else PROBE_ROUND
        while left > 0 and not basis.complete:
            probes = probes.and_more(probe(basis, min(rounds, left), generator))
            left = hvps - (surface.hvps - before)
            if tolerance is not None:
                so_far = ProbedSpectrum(basis, chain, probes, hvps)
                checked = (so_far.trace(), so_far.frobenius_norm())
                if all(e.half_width <= tolerance * abs(e.value) for e in checked):
                    break
    result = ProbedSpectrum(basis, chain, probes, surface.hvps - before, probes_only)
    result.tolerance = tolerance
    return result


def _has_basis(warm: Spectrum | None) -> TypeGuard[ProbedSpectrum]:
    return isinstance(warm, ProbedSpectrum)


def _grow_while_it_pays(
    basis: KrylovBasis, most: int, hvps: int, guard: int, tolerance: float | None, eigenvalues: int
) -> bool:
    """Lanczos steps until one more saves the probes less than it costs them; whether outliers were found.

    The variance left to n probes is ``2 ||P H P||_F^2 / n``, of which the chain itself tells the numerator,
    as a quadrature of x^2; plain Hutchinson has ``2 ||H||_F^2 / hvps``. A step pays if it captures more of
    the norm than the share of the probes it takes. Three reasons to go on all the same: an eigenvalue not yet
    settled that holds much of the norm; eigenvalues that were asked for, while the largest is an outlier at
    all; and, once most of the norm is captured, so that the trace is better than Hutchinson's in any case,
    enough steps for five eigenvalues and a quadrature.
    """
    look = max(2, round(FIRST_LOOK * hvps))
    least = max(4, int(LEAST_SHARE * hvps))
    share = ASKED_SHARE if eigenvalues else OUTLIER_SHARE
    basis.grow(max(1, min(look, most) - basis.size))
    before, step = 0.0, basis.size
    while step > 0:
        ritz, captured, total = basis.ritz(), _captured(basis), _second_moment(basis)
        rest = max(total - captured, 0.0)
        if tolerance is not None and basis.size >= least and _eigenvalues_settled(basis, tolerance):
            break
        unsettled = ritz.residuals > SETTLED * np.abs(ritz.values)
        missing = basis.size < eigenvalues or bool(unsettled[:eigenvalues].any())
        wanted = missing and _worth_finding(ritz.values[:1], total, hvps, share)
        if not wanted and (captured - before) / step * (hvps - basis.size - guard) < rest:
            enough = captured < MOST_OF_NORM * total and not _worth_finding(
                ritz.values[unsettled], total, hvps, OUTLIER_SHARE
            )
            if enough or basis.size >= least:
                break
        before = captured
        step = basis.grow(min(6, most - basis.size) if basis.size >= least else min(look, least - basis.size))
    return _worth_finding(basis.ritz().values, _second_moment(basis), hvps, share)


def _worth_finding(values: Array, total: float, hvps: int, share: float) -> bool:
    return float((values**2).max(initial=0.0)) * hvps > share * total


def _second_moment(basis: KrylovBasis) -> float:
    chain = basis.size if len(basis.starts) < 2 else basis.starts[1]
    return ChainQuadrature.of_chain(basis, chain, basis.ritz(), 0.0, 0.0, complete=False).second_moment()


def _captured(basis: KrylovBasis) -> float:
    _, gram = basis.coupling()
    return float((basis.projected**2).sum() + 2 * np.trace(gram))


def _eigenvalues_settled(basis: KrylovBasis, tolerance: float) -> bool:
    ritz = basis.ritz()
    return bool((ritz.residuals[:5] <= tolerance * np.abs(ritz.values[:5])).all())


def _second_chain(basis: KrylovBasis, guard: int, most: int) -> None:
    """Short chains in the complement, which find and exclude copies of the outliers.

    One Lanczos chain sees a repeated eigenvalue once. A copy left in the complement is its extreme
    eigenvalue, which a few steps from a fresh random start reveal; the chain joins the basis, so the copy
    is found, and from its random start follows how far out a further one can lie.
    """
    for _ in range(3):
        if basis.size >= most or basis.complete or basis.fruitless:
            break
        start = basis.size
        basis.restart()
        if basis.grow(min(guard, most - basis.size)) == 0:
            break
        block = basis.projected[start:, start:]
        largest = float(np.abs(np.linalg.eigvalsh(block)).max())
        if largest <= 0.5 * float(np.abs(basis.ritz().values).max()):
            break
