"""PreSAM: any chain of objective preconditioners with any constraint preconditioner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..checks import check_number
from ..errors import must_be
from .ascent import ConstraintPreconditioner, ObjectivePreconditioner
from .base import Closure, SharpnessAware
from .components import Component
from .gradients import Gradients, complete
from .named import constraint_of, objective_of
from .norms import global_norm, radius_over

# SAM's default radius, the one that rho="auto" refers to.
REFERENCE_RHO = 0.05


class PreSAM(SharpnessAware):
    """Preconditioned SAM (arXiv 2501.06603): e = rho D^-2 C g / ||D^-1 C g||, base steps on g(x + e).

    Objective preconditioners C and a constraint preconditioner D may be combined, which the paper leaves
    open: ``objective=[A, B]`` hands A's output to B (C = B A; each takes its statistics from g itself),
    and the constraint acts last.

    Args:
        objective: one preconditioner or a list; empty for C = I. Each is an object or, as in a suite file,
            a table such as ``{"name": "inverse_variance", "alpha": 0.05}`` (``optim.named``).
        constraint: a constraint preconditioner or its table, or None for D = I.
        rho: radius of the ball ``||D e|| <= rho``; ``"auto"`` for constraint preconditioners, see below.
        renormalize: when False, divide by the norm of the *whole* gradient, ``||g||``, instead of
            ``||D^-1 C g||`` (sparse SAM's published rule), so that e is shorter than rho.
        epsilon: added to that norm, >= 0. Zero by default (a zero gradient is safe without it); variants
            whose published code adds a constant large enough to show in the weights set it.

    Automatic radius. Since ``||D^-1 v|| <= D_0 ||v||`` with D_0 = max_t max_i (D_t^-1)_ii, eq. 5 gives
    ``||e|| = rho ||D^-2 C g|| / ||D^-1 C g|| <= rho D_0``: D_0, through which alone D enters the rate of
    Theorem 1, is the factor by which D can stretch the radius. ``rho="auto"`` therefore uses
    rho = .05 / D_0, with D_0 the running maximum of max_i (D_t^-1)_ii over the steps so far, so that no
    perturbation is ever longer than SAM's default. Without a constraint it is SAM's default itself.

    Cost: 2 gradient evaluations a step.

    Example:
        >>> from sharpbench.optim import ElementwiseScale, InverseVariance, PreSAM
        >>> model = torch.nn.Linear(4, 1)
        >>> base = torch.optim.SGD(model.named_parameters(), lr=0.1)
        >>> opt = PreSAM(base, rho=0.1, objective=[InverseVariance()], constraint=ElementwiseScale())
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = opt.step(closure)
        >>> opt.gradient_evaluations
        2
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float | str = 0.05,
        objective: ObjectivePreconditioner | Mapping[str, Any] | Sequence[Any] = (),
        constraint: ConstraintPreconditioner | Mapping[str, Any] | None = None,
        renormalize: bool = True,
        epsilon: float = 0.0,
        **common: Any,
    ) -> None:
        self.adapt = rho == "auto"
        if isinstance(rho, str):
            if not self.adapt:
                raise must_be("rho", "a number >= 0 or 'auto'", rho)
            rho = REFERENCE_RHO
        super().__init__(base, rho=rho, **common)
        self.objective = objective_of(objective)
        self.constraint = constraint_of(constraint)
        self.renormalize = renormalize
        self.epsilon = check_number("epsilon", epsilon, at_least=0.0)
        for component in self.components().values():
            component.bind(self.all_parameters(), self.parameter_names())
        # "rho" of a group is ours only where it isn't a hyper-parameter of the base (Adadelta's, say).
        self._own_rho = "rho" not in base.defaults
        # Without a reader of the gradient at x, e may take its place in memory.
        self._reads_gradient = type(self).descend is not PreSAM.descend
        self._decision: bool | None = None

    def components(self) -> dict[str, Component]:
        parts: dict[str, Component] = {f"objective.{i}": part for i, part in enumerate(self.objective)}
        if self.constraint is not None:
            parts["constraint"] = self.constraint
        return parts

    def begin_step(self) -> None:
        self._decision = None

    def perturbation(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], overwrite: bool = False
    ) -> list[Tensor]:
        """E for the gradients g at x; advances the preconditioners' memories.

        With ``overwrite`` the gradients' memory may be used for e.
        """
        norm = None if self.renormalize else global_norm(gradients)
        direction = list(gradients)
        for part in self.objective:
            direction = part.apply(params, gradients, direction)
        mine = overwrite or bool(self.objective)
        if self.constraint is None:
            radii = self._radii(params, global_norm(direction) if norm is None else norm)
            if not mine:
                return list(torch._foreach_mul(direction, radii))
            torch._foreach_mul_(direction, radii)
            return direction
        inverse = self._inverse(params, gradients)
        scaled = torch._foreach_mul(direction, inverse)  # D^-1 C g
        radii = self._radii(params, global_norm(scaled) if norm is None else norm)
        torch._foreach_mul_(scaled, inverse)
        torch._foreach_mul_(scaled, radii)
        return list(scaled)

    def _inverse(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        assert self.constraint is not None
        inverse = self.constraint.inverse(params, gradients)
        if self.adapt or self.log is not None:
            largest = torch.stack(torch._foreach_norm(inverse, float("inf"))).max()
            if self.log is not None:
                self.log.add("inverse_constraint_max", largest)
            if self.adapt:
                seen = self.constraint.scalars.get("largest_inverse", largest)
                self.constraint.scalars["largest_inverse"] = torch.maximum(seen.to(largest.device), largest)
        return inverse

    def _radii(self, params: Sequence[Tensor], norm: Tensor) -> Any:
        """Rho / norm: one 0-dim tensor, or one for each parameter where groups have a rho of their own."""
        if self.epsilon:
            norm = norm + self.epsilon

        def over(rho: float) -> Tensor:
            radius: float | Tensor = self.radius(rho)
            if self.adapt and self.constraint is not None:
                radius = radius / self.constraint.scalars["largest_inverse"]
            return radius_over(norm, radius)

        common = over(self.rho)
        if not any(self._own_rho and "rho" in g for g in self.param_groups):
            if all(p.device == norm.device and p.dtype == norm.dtype for p in params):
                return common  # the overload of the foreach functions that is fastest
            return [common.to(device=p.device, dtype=p.dtype) for p in params]
        own = {p: over(g["rho"]) for g in self.param_groups if "rho" in g for p in g["params"]}
        return [own.get(p, common).to(device=p.device, dtype=p.dtype) for p in params]

    def radius(self, rho: float | None = None) -> float:
        """The length of e in this step for a radius ``rho``, by default the optimizer's own."""
        return self.rho if rho is None else rho

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        loss, at_x = self.evaluate(closures)
        params, gradients = self.with_gradient(at_x)
        # One decision a step, also when the rule is applied to several parts of the mini-batch.
        if params and self._decision is None:
            self._decision = self.looks(gradients)
        if not params or not self._decision:
            return loss, self.descend(at_x, None)
        keep = self._reads_gradient or self.log is not None
        e = self.perturbation(params, gradients, overwrite=not keep)
        _, there = self.evaluate_at(params, e, closures)
        return loss, self.descend(at_x, complete(there, at_x))

    def looks(self, gradients: Sequence[Tensor]) -> bool:
        """Whether this step takes the second gradient at all (C = 0 where it does not)."""
        return True

    def with_gradient(self, at_x: Gradients) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that have a gradient at x, and those gradients."""
        params, present = self.parameters(), [g for g in at_x if g is not None]
        if len(present) == len(params):
            return params, present
        return [p for p, g in zip(params, at_x, strict=True) if g is not None], present

    def descend(self, at_x: Gradients, there: Gradients | None) -> Gradients:
        """The gradient to hand to the base, from those at x and at x + e (None: no second look).

        SAM's rule: the latter, or g itself on a step without a second look.
        """
        return at_x if there is None else there
