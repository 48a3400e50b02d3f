"""UniversalSAM: minimise L + weight rho^2 R for any (phi, psi, mu)-sharpness R."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..checks import check_count, check_number, check_seed
from ..errors import InvalidInput, must_be
from ..functionals import UniversalMeasure, sample_weights
from .base import Closure, SharpnessAware
from .components import Component
from .gradients import Gradients, combine, complete
from .ranks import mean_over_ranks


class UniversalSAM(SharpnessAware):
    """(phi, psi, mu)-SAM (arXiv 2406.03682, Algorithm 1).

    The loss is ``L + weight rho^2 R`` with ``R = phi(mean_i psi(Delta_i))`` and

    - ``sampling="plain"``: ``Delta_i = (L(x + rho u_i) - L(x)) / rho^2`` (the paper and its code);
    - ``sampling="antithetic"``: ``Delta_i = (L(x + rho u_i) + L(x - rho u_i) - 2 L(x)) / (2 rho^2)``,
      which removes the gradient term exactly, so that R estimates the functional of the Hessian also
      where the gradient is not zero.

    The handed gradient is ``g + weight sum_i w_i (g(x + rho u_i) - g)`` (antithetic: the mean of the two
    gradients in place of ``g(x + rho u_i)``), ``w_i = phi'(mean psi) psi'(Delta_i) / n`` with phi' at the
    same Monte-Carlo mean.

    Args:
        measure: an object with ``psi``, ``phi`` and ``mu`` (``sharpbench.functionals``); ``mu`` draws u
            over the whole parameter vector.
        rho: > 0, the radius that multiplies u.
        n_samples: number of draws of u per step.
        weight: the regularisation weight, >= 0.
        seed: of the optimizer's own generator; the global random streams are never used.

    Cost: ``n_samples + 1`` gradient evaluations a step, ``2 n_samples + 1`` antithetic.

    Raises:
        InvalidInput: rho <= 0; fewer samples than the measure needs; unknown sampling.

    Example:
        >>> from sharpbench.functionals import FROBENIUS
        >>> w = torch.nn.Parameter(torch.ones(3))
        >>> opt = UniversalSAM(torch.optim.SGD([w], lr=0.1), FROBENIUS, rho=0.1, n_samples=4,
        ...                    sampling="antithetic")
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = (w**4).sum()
        ...     loss.backward()
        ...     return loss
        >>> loss = opt.step(closure)
        >>> opt.gradient_evaluations
        9
    """

    def __init__(
        self,
        base: Optimizer,
        measure: UniversalMeasure,
        *,
        rho: float = 0.01,
        n_samples: int = 1,
        weight: float = 1.0,
        sampling: str = "plain",
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(base, rho=rho, **common)
        for part in ("psi", "phi", "mu"):
            if not hasattr(measure, part):
                raise InvalidInput(f"measure must have psi, phi and mu, but {measure!r} has no {part}")
        check_number("rho", rho, above=0.0)
        self.weight = check_number("weight", weight, at_least=0.0)
        check_count("n_samples", n_samples)
        if any("rho" in group for group in self.param_groups) and "rho" not in base.defaults:
            raise InvalidInput("rho of a parameter group has no meaning here: u is one draw over all weights")
        least = getattr(measure, "smallest_sample", 1)
        if n_samples < least:
            raise must_be(
                f"n_samples for {getattr(measure, 'name', 'this measure')!r}", f">= {least}", n_samples
            )
        if sampling not in ("plain", "antithetic"):
            raise must_be("sampling", "'plain' or 'antithetic'", sampling)
        self.measure = measure
        self.n_samples = n_samples
        self.sampling = sampling
        self._draws = Component()
        self._draws.generator = torch.Generator(self.parameters()[0].device).manual_seed(check_seed(seed))

    def components(self) -> dict[str, Component]:
        return {"draws": self._draws}

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        loss, at_x = self.evaluate(closures)
        params = self.parameters()
        signs = (1.0,) if self.sampling == "plain" else (1.0, -1.0)
        deltas: list[Tensor] = []
        looks: list[list[Gradients]] = []
        for _ in range(self.n_samples):
            u = self.measure.mu.sample(params, self._draws.generator)
            rise = torch.zeros_like(loss)
            gradients = []
            for sign in signs:
                there, gradient = self.evaluate_at(params, torch._foreach_mul(u, sign * self.rho), closures)
                rise = rise + (there - loss)
                gradients.append(complete(gradient, at_x))
            deltas.append(rise / (len(signs) * self.rho**2))
            looks.append(gradients)
        samples = torch.stack(deltas)
        # Each rank has seen its own part of the mini-batch; the weights must be those of the whole.
        mean_over_ranks([samples])
        weights = sample_weights(self.measure, samples) * self.weight
        # g + sum_i w_i (g_i - g), with g_i the mean over the sides of a draw.
        terms = [(w / len(signs), side) for w, sides in zip(weights, looks, strict=True) for side in sides]
        return loss, combine((1.0 - weights.sum(), at_x), *terms)
