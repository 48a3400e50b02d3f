"""What an optimizer says about its own steps, gathered on the device and read when asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .components import Component
from .norms import global_norm


class Diagnostics(Component):
    """Means of scalars over steps. Nothing here waits for the device, ``read`` included.

    =========================  ==========================================================================
    ``gradient_norm``          ||g||, g the gradient of the step's first pass
    ``gradient_snr``           ||grad f||^2 / E||g - grad f||^2, from <g_t, g_(t-1)>, whose mean is
                               ||grad f||^2 for independent mini-batches, and ||g_t||^2: the ratio of
                               their means over the steps read (from the second step on; inf without noise)
    ``second_looks``           share of steps that took a gradient away from x (1 - it: the lazy steps)
    ``perturbation_norm``      ||e||; of a step that looks several times, the first e
    ``participation_ratio``    (sum e_i^2)^2 / sum e_i^4, the number of weights that share e
    ``ascent_cosine``          <e, g> / (||e|| ||g||), 0 where either is 0
    ``inverse_constraint_max`` max |D^-1|, the D_0 of arXiv 2501.06603, Theorem 1 (constraint methods)
    =========================  ==========================================================================

    The mean of a name is over the steps that reported it: those of e are over the steps that looked. Under
    m-sharpness each part of a mini-batch reports. Under data parallelism, what this rank saw.

    Example:
        >>> log = Diagnostics()
        >>> log.add("perturbation_norm", torch.tensor(1.0))
        >>> log.add("perturbation_norm", torch.tensor(3.0))
        >>> log.read(), log.read()
        ({'perturbation_norm': tensor(2., dtype=torch.float64)}, {})
    """

    def __init__(self) -> None:
        super().__init__()
        self._at_x: list[Tensor | None] = []
        self._looked = True

    def add(self, name: str, value: Tensor, weight: int = 1) -> None:
        """One more value of a scalar."""
        value = value.detach().double()
        total, count = self.scalars.get(name), self.scalars.get(f"{name}.count", 0)
        self.scalars[name] = value if total is None else total + value
        self.scalars[f"{name}.count"] = count + weight

    def begin(self) -> None:
        """The passes of a step begin."""
        self._looked = False
        self._at_x = []

    def gradient(self, params: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """The gradient of the first pass, one entry per parameter."""
        pairs = [(p, g) for p, g in zip(params, gradients, strict=True) if g is not None]
        self._at_x = list(gradients)
        if not pairs:
            return
        present = [g for _, g in pairs]
        norm = global_norm(present)
        self.add("gradient_norm", norm)
        # Counted as not looking until it does.
        self.add("second_looks", torch.full_like(norm, float(self._looked)))
        known = self.memory.get("previous", {})
        if len(known) == len(pairs) and all(p in known for p, _ in pairs):
            self.add("_signal", _inner([known[p] for p, _ in pairs], present))
            self.add("_power", norm.double() ** 2)
        self.memory["previous"] = {p: g.detach().clone() for p, g in pairs}

    def look(self, params: Sequence[Tensor], e: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
        """The weights ``params`` move by e; ``parameters`` are those that ``gradient`` was told of."""
        if self._looked:
            return
        self._looked = True
        length = global_norm(e)
        self.add("perturbation_norm", length)
        fourth = torch.stack([(t.double() ** 4).sum().to(length.device) for t in e]).sum()
        self.add("participation_ratio", length.double() ** 4 / fourth.clamp_min(1e-300))
        if not self._at_x:  # a rule that perturbs before its only pass
            return
        self.add("second_looks", torch.ones_like(length), weight=0)
        of = dict(zip(parameters, self._at_x, strict=True))
        pairs = [(t, g) for t, g in ((t, of.get(p)) for p, t in zip(params, e, strict=True)) if g is not None]
        norm = global_norm([g for _, g in pairs])
        along = _inner([t for t, _ in pairs], [g for _, g in pairs])
        both = length.double() * norm.double()
        self.add("ascent_cosine", torch.where(both > 0, along / torch.where(both > 0, both, 1.0), 0.0))
        self._at_x = []

    def read(self) -> dict[str, Tensor]:
        """The means since the last reading, which starts them anew; 0-dim float64 tensors on the device."""
        scalars, self.scalars = self.scalars, {}
        means = {
            name: total / scalars[f"{name}.count"]
            for name, total in scalars.items()
            if not name.endswith(".count")
        }
        signal, power = means.pop("_signal", None), means.pop("_power", None)
        if signal is not None and power is not None:
            noise = power - signal
            means["gradient_snr"] = torch.where(noise > 0, signal.clamp_min(0.0) / noise, torch.inf)
        return means


def _inner(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    products = [t.sum() for t in torch._foreach_mul(list(left), list(right))]
    total: Tensor = torch.stack([t.to(products[0].device) for t in products]).sum()
    return total.double()
