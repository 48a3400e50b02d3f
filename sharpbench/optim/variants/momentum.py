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
        e = self._ascent(params, momenta)
        # The only pass of the step: its buffers and random numbers are the ones to keep.
        if self.log is not None:
            self.log.look(params, e, self.parameters())
        with self._perturbation.of(params, e):
            loss, handed = self.evaluate(closures)
        if self.decay_at == "perturbed":
            handed = self._decayed(handed, dict(zip(params, e, strict=True)))
        return loss, handed

    def _ascent(self, params: list[Tensor], momenta: list[Tensor]) -> list[Tensor]:
        norm = global_norm(momenta)
        own = "rho" not in self.base.defaults
        common = -radius_over(norm, self.rho)
        alike = all(p.device == norm.device and p.dtype == norm.dtype for p in params)
        if alike and not any(own and "rho" in group for group in self.param_groups):
            return list(torch._foreach_mul(momenta, common))
        radii = [self._groups[p].get("rho", self.rho) if own else self.rho for p in params]
        scales = [-radius_over(norm, rho).to(p.device, p.dtype) for p, rho in zip(params, radii, strict=True)]
        return list(torch._foreach_mul(momenta, scales))

    def _decayed(self, handed: Gradients, moved: dict[Tensor, Tensor]) -> Gradients:
        """Weight decay also of e: in the gradient, or after the step where the base decouples it (AdamW)."""
        places = {p: i for i, p in enumerate(self.parameters())}
        result = list(handed)
        for group in self.param_groups:
            decay = group.get("weight_decay", 0.0)
            members = [
                (i, g, moved[p])
                for p in group["params"]
                if p in moved and (i := places.get(p)) is not None and (g := handed[i]) is not None
            ]
            if not decay or not members:
                continue
            if group.get("decoupled_weight_decay", isinstance(self.base, torch.optim.AdamW)):
                share = -group["lr"] * decay / self._closures_of_step()
                self._late += [(self.parameters()[i], e * share) for i, _, e in members]
                continue
            decayed = torch._foreach_add([g for _, g, _ in members], [e for *_, e in members], alpha=decay)
            for (i, _, _), gradient in zip(members, decayed, strict=True):
                result[i] = gradient
        return result

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
