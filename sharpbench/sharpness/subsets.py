"""m-sharpness: the sharpness of the loss on small subsets of the data, averaged."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..errors import InvalidInput, must_be
from .estimate import Estimate
from .perturbation import worst_case_sharpness
from .surface import LossSurface


def m_sharpness(
    surface: LossSurface, rho: float, *, m: int = 32, subsets: int = 16, steps: int = 1, seed: int = 0
) -> Estimate:
    """``mean over subsets S, |S| = m, of L_S(x + rho g_S/||g_S||) - L_S(x)``, ``g_S = grad L_S(x)``.

    What SAM sees on mini-batches (Foret et al. 2021, eq. 2 on each). The subsets are disjoint runs of a
    random order of each batch's examples, drawn from all batches; the error is that of a mean over them.

    With ``steps > 1`` the displacement is sought by so many steps of normalised ascent instead. Each subset
    then gives a lower bound of ``max_{||e|| <= rho} L_S(x + e) - L_S(x)``, and so does their mean: without a
    standard error or an interval, and never converged.

    Raises:
        InvalidInput: rho not > 0, m < 1, steps < 1, fewer than two subsets to be had.
    """
    if not (math.isfinite(rho) and rho > 0):
        raise must_be("rho", "> 0", rho)
    if m < 1 or subsets < 2:
        raise must_be("m and subsets", ">= 1 and >= 2", (m, subsets))
    if steps < 1:
        raise must_be("steps", ">= 1", steps)
    generator = torch.Generator().manual_seed(seed)
    values: list[float] = []
    with surface.session():
        counts = [max(1, batch.count // m) for batch in surface.batches]
        # All of the data, not its first batches: a loader may be sorted by class.
        drawn = torch.randperm(sum(counts), generator=generator)[:subsets].tolist()
        first = 0
        for batch, count in zip(surface.batches, counts, strict=True):
            order = torch.randperm(batch.count, generator=generator)
            pieces = order.split(min(m, batch.count))
            for index in sorted(piece - first for piece in drawn if first <= piece < first + count):
                part = surface.restricted([batch.take(pieces[index])])
                found = worst_case_sharpness(part, rho, steps=steps, restarts=1, clip=False)
                values.append(found.value)
            first += count
    if len(values) < 2:
        raise InvalidInput(
            f"m_sharpness needs at least 2 subsets of {m} examples; the data give {len(values)}"
        )
    note = f"{len(values)} subsets of {m} examples"
    mean = float(np.mean(values))
    if steps > 1:
        return Estimate.lower_bound("m_sharpness", mean, note=f"{note}, {steps} ascent steps")
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate.from_error("m_sharpness", mean, error, len(values) - 1, note=note)
