"""Variants that perturb only part of the weights or look at only part of the examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...checks import check_number
from ...errors import must_be
from ..ascent import InverseVariance, ObjectivePreconditioner, TopMagnitude
from ..base import Closure
from ..closures import example_losses
from ..gradients import Gradients, complete
from ..presam import PreSAM
from ..ranks import mean_over_ranks

# What the published codes of sparse SAM and ESAM add to the norm; it shows in the weights at that size.
PUBLISHED_EPSILON = 1e-7


def top_mask(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """1 on the ``keep`` largest scores over all tensors (first index on ties), 0 elsewhere.

    >>> top_mask([torch.tensor([3.0, 1.0]), torch.tensor([2.0])], 2)
    [tensor([1., 0.]), tensor([1.])]
    """
    flat = torch.cat([s.reshape(-1) for s in scores])
    mask = torch.zeros_like(flat)
    mask[flat.argsort(descending=True, stable=True)[:keep]] = 1.0
    parts = mask.split([s.numel() for s in scores])
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


class Mask(ObjectivePreconditioner):
    """C = diag(mask), the mask set from outside and kept between steps; no mask yet means none kept."""

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        masks = self.remembered("mask", params, [torch.zeros_like(p) for p in params])
        return list(torch._foreach_mul(list(direction), masks))

    def set(self, params: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        """Replace the mask of each parameter."""
        self.memory["mask"] = {p: m.to(p.dtype) for p, m in zip(params, masks, strict=True)}


class SSAMF(PreSAM):
    """Sparse SAM with a Fisher mask: e = rho mask * g / ||g||, the norm of the *whole* gradient.

    Mi et al. 2022, arXiv 2210.05177, Algorithm 1. The mask keeps the 1 - sparsity share of weights with
    the largest empirical Fisher (the mean squared gradient of ``fisher_samples`` single examples). It is
    refreshed after the update of every ``update_every``-th step, beginning with the first, which therefore
    runs unperturbed. The examples are the first ones of the step's mini-batch, or what ``sample_losses``
    returns when set. (The published code leaves the batch gradient in the first example's; not here.)
    Defaults rho .1, sparsity .5, update_every 100, fisher_samples 16.
    Cost: 2 gradients a step, and fisher_samples single-example gradients a refresh.

    Example:
        >>> SSAMF(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), sparsity=0.8)
        SSAMF(rho=0.1, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.1,
        sparsity: float = 0.5,
        update_every: int = 100,
        fisher_samples: int = 16,
        **common: Any,
    ) -> None:
        self.mask = Mask()
        super().__init__(
            base, rho=rho, objective=self.mask, renormalize=False, epsilon=PUBLISHED_EPSILON, **common
        )
        self.sparsity = check_number("sparsity", sparsity, at_least=0.0, below=1.0)
        self.update_every = _count("update_every", update_every)
        self.fisher_samples = _count("fisher_samples", fisher_samples)
        #: () → losses of the examples that define the Fisher information, shape (n,)
        self.sample_losses: Callable[[], Tensor] | None = None
        self._closure: Closure | None = None

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        self._closure = closures[0]
        return super().handed_gradient(closures)

    def after_base_step(self) -> None:
        closure, self._closure = self._closure, None
        if self.steps % self.update_every or closure is None:
            return
        losses = self.sample_losses or example_losses(closure, "ssam_f")
        params = self.parameters()
        fisher = [torch.zeros_like(p) for p in params]
        with torch.enable_grad(), self.buffers.frozen(), self._random.kept():
            values = losses()[: self.fisher_samples]
            for i in range(len(values)):
                gradients = torch.autograd.grad(
                    values[i], params, retain_graph=i + 1 < len(values), allow_unused=True
                )
                for total, g in zip(fisher, gradients, strict=True):
                    if g is not None:
                        total += g.detach() ** 2
        mean_over_ranks(fisher)  # autograd.grad does not pass through DDP
        size = sum(p.numel() for p in params)
        self.mask.set(params, top_mask(fisher, max(1, int(size * (1.0 - self.sparsity)))))


class SSAMD(PreSAM):
    """Sparse SAM with a dynamic mask: e = rho mask * g / ||g||, the norm of the whole gradient.

    Mi et al. 2022, arXiv 2210.05177, Algorithm 2. The mask starts random with a 1 - sparsity share of
    ones. After every ``update_every``-th step a share drop_rate (1 + cos(pi t/T))/2 of the kept weights,
    those with the smallest |g|, is dropped and as many others are grown at random.
    Defaults rho .1, sparsity .5, update_every 100, drop_rate .5. Cost: 2 gradients a step.

    Example:
        >>> SSAMD(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), total_steps=100)
        SSAMD(rho=0.1, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.1,
        sparsity: float = 0.5,
        update_every: int = 100,
        drop_rate: float = 0.5,
        total_steps: int | None = None,
        seed: int = 0,
        **common: Any,
    ) -> None:
        self.mask = Mask()
        super().__init__(
            base, rho=rho, objective=self.mask, renormalize=False, epsilon=PUBLISHED_EPSILON, **common
        )
        self.sparsity = check_number("sparsity", sparsity, at_least=0.0, below=1.0)
        self.update_every = _count("update_every", update_every)
        self.drop_rate = check_number("drop_rate", drop_rate, at_least=0.0, at_most=1.0)
        self.total_steps = _count("total_steps", total_steps)
        params = self.parameters()
        # Drawn on the CPU, so that the mask does not depend on the device.
        self.mask.generator = torch.Generator().manual_seed(seed)
        size = sum(p.numel() for p in params)
        keep = max(1, round(size * (1.0 - self.sparsity)))
        self.mask.set(params, top_mask(self._noise(params), keep))
        self._magnitudes: dict[Tensor, Tensor] = {}

    def _noise(self, params: Sequence[Tensor]) -> list[Tensor]:
        draws = [torch.rand(p.shape, dtype=torch.float64, generator=self.mask.generator) for p in params]
        return [d.to(p.device) for d, p in zip(draws, params, strict=True)]

    def perturbation(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        if self.steps % self.update_every == self.update_every - 1:
            self._magnitudes = {p: g.abs() for p, g in zip(params, gradients, strict=True)}
        return super().perturbation(params, gradients)

    def after_base_step(self) -> None:
        magnitudes, self._magnitudes = self._magnitudes, {}
        if not magnitudes:
            return
        params = self.parameters()
        masks = [self.mask.memory["mask"][p] for p in params]
        kept = int(sum(int(m.sum()) for m in masks))
        rate = self.drop_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, self.steps / self.total_steps)))
        size = sum(p.numel() for p in params)
        drop = min(round(rate * kept), size - kept)
        known = [magnitudes.get(p, torch.zeros_like(p)) for p in params]
        # Kept weights by |g|, others below every one of them; then the grown ones among the others.
        stay = top_mask([torch.where(m > 0, g, -1.0) for m, g in zip(masks, known, strict=True)], kept - drop)
        grown = top_mask(
            [torch.where(m > 0, -1.0, r) for m, r in zip(masks, self._noise(params), strict=True)], drop
        )
        self.mask.set(params, [s + g.to(s.dtype) for s, g in zip(stay, grown, strict=True)])


class ModifiedSSAM(PreSAM):
    """Modified sparse SAM: the mask first, then InfoSAM on the masked gradient, renormalised to rho.

    arXiv 2501.06603, section III.C. The mask keeps the 1 - sparsity share of entries with the largest
    |g|; InfoSAM's variances are those of the whole gradient. Defaults rho .1, sparsity .5, and InfoSAM's
    alpha .05 and relative floor .1. Cost: 2 gradients a step.

    Example:
        >>> ModifiedSSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), sparsity=0.8)
        ModifiedSSAM(rho=0.1, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.1,
        sparsity: float = 0.5,
        alpha: float = 0.05,
        floor: float = 0.1,
        **common: Any,
    ) -> None:
        check_number("sparsity", sparsity, at_least=0.0, below=1.0)
        chain: list[ObjectivePreconditioner] = [InverseVariance(alpha, floor=floor)]
        if sparsity > 0:
            chain.insert(0, TopMagnitude(float(1.0 - sparsity)))
        super().__init__(base, rho=rho, objective=chain, **common)


class TensorMask(ObjectivePreconditioner):
    """C keeps each parameter tensor as a whole with probability beta."""

    def __init__(self, beta: float, seed: int) -> None:
        super().__init__()
        self.beta = beta
        self.generator = torch.Generator().manual_seed(seed)

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
    The examples are chosen and differentiated in one pass at x + e, where the published code takes an extra
    forward pass; the two differ only where examples interact (BatchNorm). Needs ``BatchLoss`` closures.
    Defaults rho .05, beta .6, gamma .5. Cost: 2 gradients a step, the second a partial one.

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

    def radius(self) -> float:
        return self.rho / self.beta

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
                return self._backward(losses[self._risen(losses.detach() - known)])

            return run

        parts = [there(c, b) for c, b in zip(closures, before, strict=True)]
        _, at_e = self.evaluate_at(params, self.perturbation(params, gradients), parts)
        return loss, complete(at_e, gradients_at_x)

    def _backward(self, losses: Tensor) -> Tensor:
        self.zero_grad()
        loss = losses.mean()
        loss.backward()
        return loss

    def _risen(self, rise: Tensor) -> Tensor:
        """Boolean (n,): the examples to learn from; all of them when no rise is strictly above the cut."""
        count = int(len(rise) * self.gamma)
        if self.gamma >= 0.99 or count < 2:
            return torch.ones_like(rise, dtype=torch.bool)
        risen = rise > rise.topk(count).values[-1]
        return risen | ~risen.any()


def _count(name: str, value: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise must_be(name, "a whole number >= 1", value)
    return value
