"""Global norms and selections over all parameters together, without a host synchronisation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm over all tensors together, a 0-dim tensor on their device (no host synchronisation).

    >>> global_norm([torch.tensor([3.0]), torch.tensor([4.0])])
    tensor(5.)
    """
    norms = torch._foreach_norm(list(tensors))
    device = norms[0].device
    if any(n.device != device for n in norms):
        norms = tuple(n.to(device, non_blocking=True) for n in norms)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


# Far above the smallest number of the dtype, so that rho over it is finite.
FLOORS = {torch.float32: 1e-30, torch.float64: 1e-250}


def radius_over(norm: Tensor, rho: float | Tensor) -> Tensor:
    """Rho / norm, finite where the norm is 0: times a gradient of zeros it is zero, never NaN.

    >>> radius_over(torch.tensor(2.0), 1.0)
    tensor(0.5000)
    >>> 0.0 * radius_over(torch.tensor(0.0), 0.05)
    tensor(0.)
    """
    # A floor that no honest norm reaches.
    return norm.clamp_min(FLOORS[norm.dtype]).reciprocal_().mul_(rho)


def split_like(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A vector cut into tensors of the shapes of ``like``, in order."""
    parts = flat.split([t.numel() for t in like])
    return [part.reshape(t.shape) for part, t in zip(parts, like, strict=True)]


def largest(scores: Tensor, count: int) -> Tensor:
    """Boolean mask of the ``count`` largest of a vector, the first ones among equals.

    >>> largest(torch.tensor([2.0, 1.0, 2.0, 2.0]), 2)
    tensor([ True, False,  True, False])
    """
    if scores.device.type != "cpu":
        threshold = scores.kthvalue(len(scores) - count + 1).values
        above = scores > threshold
        ties = scores == threshold
        return above | (ties & (ties.cumsum(0) <= count - above.sum()))
    smallest, surplus = _threshold(scores, count)
    mask = scores >= float(smallest)
    if surplus > 0:
        mask[(scores == float(smallest)).nonzero()[-surplus:]] = False
    return mask


def keep_largest(vector: Tensor, count: int) -> Tensor:
    """The vector with 0 where |v| is not among the ``count`` largest, the first ones among equals.

    >>> keep_largest(torch.tensor([-2.0, 1.0, 3.0, 2.0]), 2)
    tensor([-2.,  0.,  3.,  0.])
    """
    sizes = vector.abs()
    if vector.device.type != "cpu":
        return vector * largest(sizes, count)
    smallest, surplus = _threshold(sizes, count)
    # hardshrink keeps |v| > lambda in one pass; the next number below the threshold makes that |v| >= it.
    below = float(np.nextafter(smallest, -np.inf, dtype=smallest.dtype))
    kept: Tensor = torch.nn.functional.hardshrink(vector, below)
    if surplus > 0 and smallest > 0:  # among zeros it does not matter which are kept
        kept[(sizes == float(smallest)).nonzero()[-surplus:]] = 0.0
    return kept


def _threshold(scores: Tensor, count: int) -> tuple[np.floating, int]:
    """The ``count``-th largest on a CPU, and how many equal to it must be left out.

    A selection, not a sort, and numpy's, which is vectorised: on 700 000 numbers it takes a tenth of the time
    of ``torch.kthvalue``, which takes a quarter of that of ``topk``.
    """
    place = len(scores) - count
    ordered = np.partition(scores.detach().numpy(), place)
    return ordered[place], int(np.count_nonzero(ordered[:place] == ordered[place]))
