"""Gradients as lists with one entry per parameter, None where a parameter had no part in the loss."""

from __future__ import annotations

import torch
from torch import Tensor

Gradients = list[Tensor | None]


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
