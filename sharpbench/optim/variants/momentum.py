"""Momentum-SAM: the ascent direction for free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...errors import must_be
from ..base import Closure, SharpnessAware
from ..gradients import Gradients
from ..norms import global_norm, radius_over

# Where the base optimizers of torch keep their momentum.
MOMENTUM_KEYS = ("momentum_buffer", "exp_avg")


class MSAM(SharpnessAware):
    """Momentum-SAM: one gradient a step, at x - rho v/||v||, v the base optimizer's momentum.

    Becker et al. 2024, arXiv 2401.12033. The published optimizer leaves the weights at the perturbed point
    between steps and has to be moved back for evaluation; here every step perturbs, evaluates and comes
    back, so that evaluation, checkpoints and schedulers always see x. The trajectory is the same.
    ``decay_at="perturbed"`` (the published code) decays the weights of the perturbed point;
    ``"weights"`` those of x. With a base that decouples its decay (AdamW), so is the decay of the
    perturbation. The loss returned is the one at the perturbed point: the rule has no other. Default
    rho .3. Needs a base with momentum. Cost: 1 gradient a step.

    Example:
        >>> MSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9))
        MSAM(rho=0.3, base=SGD)
    """

    evaluates_at_weights = False

    def __init__(
        self, base: Optimizer, *, rho: float = 0.3, decay_at: str = "perturbed", **common: Any
    ) -> None:
        super().__init__(base, rho=rho, **common)
        if decay_at not in ("perturbed", "weights"):
            raise must_be("decay_at", "'perturbed' or 'weights'", decay_at)
        for group in base.param_groups:
            if not group.get("momentum", 0.0) and "betas" not in group:
                raise must_be("momentum of the base", "> 0 (it is the direction of ascent)", 0.0)
        self.decay_at = decay_at

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        params, momenta = self._momenta()
        if not params:
            return self.evaluate(closures)
        norm = global_norm(momenta)
        e = list(torch._foreach_mul(momenta, self._scales(params, norm)))
        # The only pass of the step: its buffers and random numbers are the ones to keep.
        if self.log is not None:
            self.log.look(params, e, self.parameters())
        with self._perturbation.of(params, e):
            loss, handed = self.evaluate(closures)
        if self.decay_at == "perturbed":
            self._decay(dict(zip(params, e, strict=True)), dict(zip(self.parameters(), handed, strict=True)))
        return loss, handed

    def _scales(self, params: Sequence[Tensor], norm: Tensor) -> Any:
        """-rho / norm: one 0-dim tensor, or one for each parameter where their groups or devices differ."""
        own = "rho" not in self.base.defaults and any("rho" in group for group in self.param_groups)
        if not own and all(p.device == norm.device and p.dtype == norm.dtype for p in params):
            return -radius_over(norm, self.rho)
        radii = [self._groups[p].get("rho", self.rho) if own else self.rho for p in params]
        return [-radius_over(norm, rho).to(p.device, p.dtype) for rho, p in zip(radii, params, strict=True)]

    def _decay(self, moved: dict[Tensor, Tensor], handed: dict[Tensor, Tensor | None]) -> None:
        """Weight decay also of e: in the gradient, or after the step where the base decouples it (AdamW)."""
        for group in self.param_groups:
            decay = group.get("weight_decay", 0.0)
            if not decay:
                continue
            own = [(p, moved[p], handed[p]) for p in group["params"] if p in moved]
            touched = [(p, e, g) for p, e, g in own if g is not None]
            if group.get("decoupled_weight_decay", isinstance(self.base, torch.optim.AdamW)):
                factor = -group["lr"] * decay / self._closures_of_step()
                self._late += [(p, e * factor) for p, e, _ in touched]
            elif touched:
                torch._foreach_add_([g for *_, g in touched], [e for _, e, _ in touched], alpha=decay)

    def _closures_of_step(self) -> int:
        return self._closures if self.m_sharpness else 1

    def begin_step(self) -> None:
        self._late: list[tuple[Tensor, Tensor]] = []
        self._groups = {p: group for group in self.param_groups for p in group["params"]}

    def after_base_step(self) -> None:
        for p, change in self._late:
            p.add_(change)
        self._late = []

    def _momenta(self) -> tuple[list[Tensor], list[Tensor]]:
        pairs = []
        for p in self.parameters():
            state = self.state.get(p, {})
            found = next((state[k] for k in MOMENTUM_KEYS if state.get(k) is not None), None)
            if found is not None:
                pairs.append((p, found))
        return [p for p, _ in pairs], [v for _, v in pairs]
