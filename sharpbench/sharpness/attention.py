"""Attention in matrix products and a softmax that is cheap to differentiate twice."""

from __future__ import annotations

import torch
from torch import Tensor

from .softmax import softmax


def is_plain_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool
) -> bool:
    """Whether :func:`attention` gives what ``F.scaled_dot_product_attention`` would."""
    if query.ndim < 3 or not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        return False
    if mask is None:
        return True
    if is_causal or not (mask.dtype == torch.bool or mask.dtype == query.dtype):
        return False
    # A query that sees no key gets zeros there, and would get nan here.
    seen = mask if mask.dtype == torch.bool else mask.detach() > -torch.inf
    return bool(seen.any(-1).all())


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """``softmax(scale Q Kᵀ + mask) V``; q (…, m, d), k (…, n, d), v (…, n, e), scale ``1 / sqrt(d)``.

    torch's fused kernels have no second derivative.

    Args:
        mask: booleans, true where a query may look, or numbers to add; broadcast to (…, m, n).
        is_causal: query i looks at keys 0 … i.

    >>> q, k, v = torch.randn(3, 2, 4, 5)
    >>> wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> torch.allclose(attention(q, k, v, is_causal=True), wanted, atol=1e-6)
    True
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores + mask if mask.dtype != torch.bool else scores.masked_fill(~mask, -torch.inf)
    return softmax(scores, -1) @ value
