"""fp16 loss scaling: unscale after every pass, skip the whole step on overflow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from .gradients import Gradients


class Overflow(Exception):
    """A scaled gradient is not finite: this step must leave no trace."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__("a scaled gradient is not finite")
        self.loss = loss


class LossScale:
    """A ``torch.amp.GradScaler`` whose scale is taken out after every pass of a step.

    The perturbation and every combination of gradients are made from unscaled gradients, so the rule does
    not depend on the scale. The last gradient is handed back scaled, which is exact (the scale is a
    power of two), because ``GradScaler.step`` does the bookkeeping of growth and back-off.
    ``BatchLoss`` closures scale by themselves; others call ``scaler.scale(loss).backward()`` and return the
    unscaled loss.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler

    def unscale(self, gradients: Gradients, loss: Tensor) -> None:
        """Divide by the scale in place.

        Raises:
            Overflow: something is inf or NaN. (One host synchronisation, as in GradScaler itself.)
        """
        present = [g for g in gradients if g is not None]
        if not present:
            return
        torch._foreach_mul_(present, 1.0 / self._scale(present[0].device))
        largest = torch.stack(torch._foreach_norm(present, float("inf")))
        if not torch.isfinite(largest).all().item():
            raise Overflow(loss)

    def step(self, base: Optimizer, gradients: Gradients, params: list[Tensor]) -> None:
        """Let the base step on ``gradients``, which are unscaled, and update the scale."""
        present = [g for g in gradients if g is not None]
        if present:
            scale = self._scale(present[0].device)
            for p, g in zip(params, gradients, strict=True):
                p.grad = None if g is None else g * scale
        self.scaler.step(base)
        self.scaler.update()

    def skip(self, base: Optimizer, params: list[Tensor]) -> None:
        """Tell the scaler of an overflow: the base does not step and the scale backs off."""
        for p in params:
            p.grad = torch.full_like(p, float("inf"))
        self.scaler.step(base)
        self.scaler.update()
        for p in params:
            p.grad = None

    def of(self, loss: Tensor) -> Tensor:
        """The scaled loss."""
        scaled: Tensor = self.scaler.scale(loss)
        return scaled

    def _scale(self, device: torch.device) -> Tensor:
        scaled: Tensor = self.scaler.scale(torch.ones((), device=device))
        return scaled
