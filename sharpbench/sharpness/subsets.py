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
    """``mean over subsets S, |S| = m, of max_{||e|| <= rho} L_S(x + e) - L_S(x)`` (Foret et al. 2021).

    The maximum by ``steps`` of normalised ascent (one: what SAM does on a mini-batch). Subsets are disjoint
    runs of a random order of each batch's examples; the error is that of a mean over them.

    Raises:
        InvalidInput: rho not > 0, m < 1, fewer than two subsets to be had.
    """
    if not (math.isfinite(rho) and rho > 0):
        raise must_be("rho", "> 0", rho)
    if m < 1 or subsets < 2:
        raise must_be("m and subsets", ">= 1 and >= 2", (m, subsets))
    generator = torch.Generator().manual_seed(seed)
    values: list[float] = []
    with surface.session():
        for batch in surface.batches:
            order = torch.randperm(batch.count, generator=generator)
            for chosen in order.split(m):
                if len(values) == subsets or len(chosen) < min(m, batch.count):
                    break
                part = surface.restricted([batch.take(chosen)])
                found = worst_case_sharpness(part, rho, steps=steps, restarts=1, clip=False)
                values.append(found.value)
    if len(values) < 2:
        raise InvalidInput(
            f"m_sharpness needs at least 2 subsets of {m} examples; the data give {len(values)}"
        )
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    note = f"{len(values)} subsets of {m} examples, {steps} ascent steps"
    return Estimate.from_error("m_sharpness", float(np.mean(values)), error, len(values) - 1, note=note)
