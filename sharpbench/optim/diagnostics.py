"""What an optimizer says about its own steps, gathered on the device and read when asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .norms import global_norm


class Diagnostics:
    """Means of scalars over steps. ``add`` never synchronises with the host; ``read`` does, once.

    =========================  ==========================================================================
    ``perturbation_norm``      ||e||
    ``participation_ratio``    (sum e_i^2)^2 / sum e_i^4, the number of weights that share e
    ``ascent_cosine``          <e, g> / (||e|| ||g||)
    ``inverse_constraint_max`` max |D^-1|, the D_0 of arXiv 2501.06603, Theorem 1 (constraint methods)
    ``gradient_norm``          ||g||
    ``gradient_snr``           ||grad f||^2 / E||g - grad f||^2, from <g_t, g_(t-1)>, whose mean is
                               ||grad f||^2 for independent mini-batches, and ||g_t||^2: the ratio of
                               their means over the steps read
    ``second_looks``           share of steps that took the second gradient
    =========================  ==========================================================================

    Example:
        >>> log = Diagnostics()
        >>> log.add("perturbation_norm", torch.tensor(1.0))
        >>> log.add("perturbation_norm", torch.tensor(3.0))
        >>> log.read(), log.read()
        ({'perturbation_norm': 2.0}, {})
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._previous: list[Tensor] = []

    def add(self, name: str, value: Tensor) -> None:
        """One more value of a scalar."""
        value = value.detach().double()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def gradient(self, gradients: Sequence[Tensor], looked: bool) -> None:
        """The gradient at x of a step, and whether the step takes a second look."""
        norm = global_norm(gradients)
        self.add("gradient_norm", norm)
        self.add("second_looks", torch.full_like(norm, float(looked)))
        same = len(self._previous) == len(gradients) and all(
            a.shape == b.shape for a, b in zip(self._previous, gradients, strict=True)
        )
        if same:
            products = torch._foreach_mul(self._previous, list(gradients))
            self.add("_signal", torch.stack([p.sum() for p in products]).sum())
            self.add("_power", norm**2)
        self._previous = [g.detach().clone() for g in gradients]

    def perturbation(self, e: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """The perturbation of a step that took one."""
        e = list(e)
        length = global_norm(e)
        fourth = torch.stack([(t.double() ** 4).sum() for t in e]).sum()
        along = torch.stack([t.sum() for t in torch._foreach_mul(e, list(gradients))]).sum()
        tiny = torch.finfo(length.dtype).tiny
        self.add("perturbation_norm", length)
        self.add("participation_ratio", length.double() ** 4 / fourth.clamp_min(1e-300))
        self.add("ascent_cosine", along / (length * global_norm(gradients)).clamp_min(tiny))

    def read(self) -> dict[str, float]:
        """The means since the last reading, which starts them anew; the only host synchronisation."""
        means = {name: (total / self._counts[name]).item() for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        signal, power = means.pop("_signal", None), means.pop("_power", None)
        if signal is not None and power is not None:
            noise = power - signal
            means["gradient_snr"] = max(signal, 0.0) / noise if noise > 0 else math.inf
        return means
