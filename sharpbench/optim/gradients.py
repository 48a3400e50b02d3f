"""Gradients as lists with one entry per parameter, None where a parameter had no part in the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InvalidInput

Gradients = list[Tensor | None]


def take(params: Sequence[Tensor]) -> Gradients:
    """Move the gradients out of ``p.grad``, without a copy where they are not shared views.

    Raises:
        InvalidInput: a sparse gradient.
    """
    taken: Gradients = []
    for p in params:
        gradient = p.grad
        if gradient is not None and gradient.is_sparse:
            raise InvalidInput("sparse gradients are not supported (build the embedding with sparse=False)")
        # DDP's bucket views are overwritten by the next backward: those, and only those, are copied.
        taken.append(gradient.clone() if gradient is not None and gradient._is_view() else gradient)
        p.grad = None
    return taken


def add(left: Gradients, right: Gradients) -> Gradients:
    """Elementwise sum into ``left``; a missing gradient counts as zero."""
    both = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [b if a is None else a for a, b in zip(left, right, strict=True)]


def complete(there: Gradients, at_x: Gradients) -> Gradients:
    """A parameter that took part at x but not at x + e has gradient zero there, not none at all."""
    return [
        torch.zeros_like(g) if t is None and g is not None else t for t, g in zip(there, at_x, strict=True)
    ]


def inner(left: Gradients, right: Gradients) -> Tensor:
    """``<left, right>`` over all parameters, 0-dim, without a host synchronisation.

    >>> inner([torch.tensor([1.0, 2.0]), None], [torch.tensor([3.0, 4.0]), None])
    tensor(11.)
    """
    products = [(a * b).sum() for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    return torch.stack([p.to(products[0].device) for p in products]).sum()


def combine(*terms: tuple[float | Tensor, Gradients]) -> Gradients:
    """``sum_j c_j G_j``; a parameter that a term misses counts as zero in it, as None if all miss it.

    >>> combine((2.0, [torch.tensor([1.0]), None]), (1.0, [torch.tensor([3.0]), None]))
    [tensor([5.]), None]
    """
    if not any(g is None for _, gradients in terms for g in gradients):
        (first, start), *others = terms
        sums = torch._foreach_mul([g for g in start if g is not None], first)
        for coefficient, gradients in others:
            there = [g for g in gradients if g is not None]
            if isinstance(coefficient, Tensor):
                torch._foreach_add_(sums, torch._foreach_mul(there, coefficient))
            else:
                torch._foreach_add_(sums, there, alpha=coefficient)
        return list(sums)
    total: Gradients = [None] * len(terms[0][1])
    for coefficient, gradients in terms:
        present = [i for i, g in enumerate(gradients) if g is not None]
        if not present:
            continue
        scaled = torch._foreach_mul([g for g in gradients if g is not None], coefficient)
        for i, g in zip(present, scaled, strict=True):
            so_far = total[i]
            total[i] = g if so_far is None else so_far.add_(g)
    return total
