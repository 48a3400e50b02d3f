"""ESAM: a random subset of tensors, and the examples whose loss rose most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...checks import check_number, check_seed
from ..ascent import ObjectivePreconditioner
from ..base import Closure
from ..closures import example_losses
from ..gradients import Gradients, complete
from ..presam import PreSAM
from .sparse import PUBLISHED_EPSILON


class TensorMask(ObjectivePreconditioner):
    """C keeps each parameter tensor as a whole with probability beta."""

    def __init__(self, beta: float, seed: int) -> None:
        super().__init__()
        self.beta = beta
        self.generator = torch.Generator().manual_seed(check_seed(seed))

    def draw(self, count: int) -> list[bool]:
        """Which tensors take part in this step."""
        return (
            (torch.rand(count, generator=self.generator) < self.beta).tolist()
            if self.beta < 1
            else [True] * count
        )

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        kept = self.draw(len(params))
        return [v if k else torch.zeros_like(v) for v, k in zip(direction, kept, strict=True)]


class ESAM(PreSAM):
    """Efficient SAM: perturb a random subset of tensors, then learn from the examples that rose most.

    Du et al. 2022, arXiv 2110.03141. e = (rho/beta) mask * g / ||mask * g|| with one coin of probability
    beta per tensor; the gradient at x + e is that of the gamma share of examples whose loss rose by more
    than the gamma-quantile (strictly, as in the published code, so one fewer than gamma n without ties).
    The examples are chosen and differentiated in one pass at x + e, where the published code takes a forward
    pass to choose and a smaller pass to differentiate; the two differ only where examples interact
    (BatchNorm). Needs ``BatchLoss`` closures. Defaults rho .05, beta .6, gamma .5. Cost: 2 gradients a step.

    Example:
        >>> ESAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        ESAM(rho=0.05, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        beta: float = 0.6,
        gamma: float = 0.5,
        seed: int = 0,
        **common: Any,
    ) -> None:
        self.beta = check_number("beta", beta, above=0.0, at_most=1.0)
        self.gamma = check_number("gamma", gamma, above=0.0, at_most=1.0)
        self.tensors = TensorMask(beta, seed)
        super().__init__(base, rho=rho, objective=self.tensors, epsilon=PUBLISHED_EPSILON, **common)

    def radius(self, rho: float | None = None) -> float:
        return super().radius(rho) / self.beta

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        before: list[Tensor] = []

        def at_x(closure: Closure) -> Closure:
            def run() -> Tensor:
                losses = example_losses(closure, "esam")()
                before.append(losses.detach())
                return self._backward(losses)

            return run

        loss, gradients_at_x = self.evaluate([at_x(c) for c in closures])
        params, gradients = self.with_gradient(gradients_at_x)
        if not params:
            return loss, gradients_at_x

        def there(closure: Closure, known: Tensor) -> Closure:
            def run() -> Tensor:
                losses = example_losses(closure, "esam")()
                kept = self._risen(losses.detach() - known).to(losses.dtype)
                # A weighted mean instead of an index: which examples they are never has to reach the host.
                return self._backward(losses * kept, kept.sum())

            return run

        parts = [there(c, b) for c, b in zip(closures, before, strict=True)]
        _, at_e = self.evaluate_at(params, self.perturbation(params, gradients), parts)
        return loss, complete(at_e, gradients_at_x)

    def _backward(self, losses: Tensor, count: Tensor | None = None) -> Tensor:
        self.zero_grad()
        loss = losses.mean() if count is None else losses.sum() / count
        self.scaled(loss).backward()
        return loss

    def _risen(self, rise: Tensor) -> Tensor:
        """Boolean (n,): the examples to learn from; all of them when no rise is strictly above the cut."""
        count = int(len(rise) * self.gamma)
        if self.gamma >= 0.99 or count < 2:
            return torch.ones_like(rise, dtype=torch.bool)
        risen = rise > rise.topk(count).values[-1]
        return risen | ~risen.any()
