"""PreciseLosses: losses in float64 where that can be had, and what rounding leaves in their differences."""

from __future__ import annotations

import torch
from torch import Tensor

from .double_precision import all_double, double_twin
from .memory import free_memory, out_of_memory
from .surface import LossSurface

# The float64 copy of the weights, beside the displaced ones, may take this share of the free memory.
SHARE = 0.25
# Losses at displacements of a few rounding units, whose scatter is rounding.
PROBES = 6
# Rounding units by which each output may be off.
UNITS = 4
# The copy is the same function if its loss is the same up to rounding.
SAME = 1e-3


class PreciseLosses:
    """``L(x + u)`` for differences so small that rounding in the model's own precision would hide them.

    A model may return its loss itself, in float32, or compute outputs whose rounding outweighs a difference
    of losses. On a CPU the losses are therefore those of a copy of the model in float64, for about twice
    the time. Where there is no copy (a GPU, where float64 is slow; too little memory; a model that can't be
    copied or run so), they are the model's own, and ``rounding`` bounds the error of one loss: three
    standard deviations over displacements of a few rounding units, and what four units in each output make
    of the loss.

    Example:
        >>> from torch import nn
        >>> model, data = nn.Linear(1, 1), (torch.ones(4, 1), torch.zeros(4, 1))
        >>> surface = LossSurface(model, nn.functional.mse_loss, data)
        >>> PreciseLosses(surface).rounding < 1e-14
        True
    """

    def __init__(self, surface: LossSurface) -> None:
        self.surface = surface
        #: the loss at the point, in the model's own precision
        self.own = surface.loss()
        self.twin = self._twin() if surface.device.type == "cpu" else None
        if self.twin is not None:
            self.rounding = 8 * torch.finfo(torch.float64).eps * (1 + abs(self.own))
        else:
            self.rounding = self._measured_rounding()
        self.base = float(self.losses_at(torch.zeros(surface.dimension, 1))[0])

    def losses_at(self, offsets: Tensor) -> Tensor:
        """``L(x + u_i)`` for the columns of ``offsets``, shape ``(d, k)``; returns ``(k,)`` float64."""
        if self.twin is None:
            return self.surface.losses_at(offsets.to(self.surface.device, self.surface.dtype))
        self.surface.forwards += offsets.shape[1]
        with all_double():
            return self.twin.losses_at(offsets.double())

    def note(self) -> str:
        """In which precision the losses are, where it is not float64."""
        if self.twin is not None:
            return ""
        return f"losses in the model's own precision, each off by up to {self.rounding:.2g} by rounding"

    def _twin(self) -> LossSurface | None:
        surface = self.surface
        weights = sum(p.numel() for p in surface.model.parameters())
        fits = 3 * 8 * weights < SHARE * free_memory(surface.device)
        twin, same = (double_twin(surface) if fits else None), 0.0
        if twin is not None:
            try:
                with all_double():
                    batch = next(iter(twin.batches))
                    with twin.session(), twin.evaluate.values_only():
                        there = twin.evaluate.loss(batch, double=True).detach()
                with surface.session(), surface.evaluate.values_only():
                    here = float(surface.evaluate.loss(next(iter(surface.batches)), double=True).detach())
                close = abs(float(there) - here) <= SAME * (abs(here) + SAME)
                same = float(close and there.dtype == torch.float64)
            except Exception as error:  # not to be run in float64: constants of another type
                if isinstance(error, RuntimeError) and out_of_memory(error):
                    same = 0.0
        # All ranks use the copy or none: their losses are summed.
        ranks = surface.shards.sum(torch.ones((), device=surface.device))
        agreed = surface.shards.sum(torch.tensor(same, device=surface.device))
        return twin if float(agreed) == float(ranks) else None

    def _measured_rounding(self) -> float:
        surface, batch = self.surface, next(iter(self.surface.batches))
        unit = torch.finfo(surface.dtype).eps
        with surface.session():
            generator = torch.Generator().manual_seed(0)
            shape = (surface.dimension, PROBES)
            signs = torch.randint(0, 2, shape, generator=generator).to(surface.device, surface.dtype) * 2 - 1
            near = surface.losses_at(2 * unit * signs * surface.point().abs()[:, None])
            with surface.evaluate.values_only():
                outputs = surface.model(batch.inputs)
            size = abs(self.own)
            if isinstance(outputs, Tensor) and outputs.is_floating_point():
                unit = max(unit, torch.finfo(outputs.dtype).eps)
                leaf = outputs.detach().requires_grad_(True)
                loss = surface.evaluate.loss_of(leaf, batch.targets, double=True)
                (slope,) = torch.autograd.grad(loss, leaf, allow_unused=True, materialize_grads=True)
                size = float((slope.double() * outputs.double()).norm())
        return 3 * float(near.std()) + UNITS * unit * size
