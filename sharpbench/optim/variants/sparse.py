"""Sparse SAM: variants that perturb only part of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...checks import check_count, check_number, check_seed
from ..ascent import InverseVariance, ObjectivePreconditioner, TopMagnitude
from ..base import Closure
from ..closures import example_losses
from ..gradients import Gradients
from ..norms import largest
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
    mask = largest(flat, keep).to(flat.dtype) if keep > 0 else torch.zeros_like(flat)
    parts = mask.split([s.numel() for s in scores])
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


class Mask(ObjectivePreconditioner):
    """C = diag(mask), the mask set from outside and kept between steps; no mask yet means none kept."""

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        known = self.memory.get("mask", {})
        masks = [known[p] if p in known else torch.zeros_like(p) for p in params]
        return list(torch._foreach_mul(list(direction), masks))

    def set(self, params: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
        """Replace the mask of each parameter."""
        self.memory["mask"] = {p: m.to(p.dtype) for p, m in zip(params, masks, strict=True)}


def sparse_rule(mask: Mask, sparsity: float) -> dict[str, Any]:
    """How sparse SAM perturbs, as arguments of ``PreSAM``; with nothing masked it is SAM, without epsilon."""
    if sparsity == 0:
        return {"objective": []}
    return {"objective": [mask], "renormalize": False, "epsilon": PUBLISHED_EPSILON}


class SSAMF(PreSAM):
    """Sparse SAM with a Fisher mask: e = rho mask * g / ||g||, the norm of the *whole* gradient.

    Mi et al. 2022, arXiv 2210.05177, Algorithm 1. The mask keeps the 1 - sparsity share of weights with
    the largest empirical Fisher (the mean squared gradient of ``fisher_samples`` single examples). It is
    refreshed after the update of every ``update_every``-th step, beginning with the first, which therefore
    runs unperturbed. The examples are the first ones of the step's mini-batch, or what ``sample_losses``
    returns when set. (The published code leaves the batch gradient in the first example's; not here.)
    Defaults rho .1, sparsity .5, update_every 100, fisher_samples 16.
    With sparsity 0 it is SAM. Cost: 2 gradients a step, and fisher_samples a refresh, each of a single
    example but through the graph of the whole mini-batch (unless ``sample_losses`` is set), which a compiled
    model evaluates anew for each.

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
        self.sparsity = check_number("sparsity", sparsity, at_least=0.0, below=1.0)
        self.mask = Mask()
        super().__init__(base, rho=rho, **sparse_rule(self.mask, sparsity), **common)
        self.update_every = check_count("update_every", update_every)
        self.fisher_samples = check_count("fisher_samples", fisher_samples)
        #: () → losses of the examples that define the Fisher information, shape (n,)
        self.sample_losses: Callable[[], Tensor] | None = None
        self._closure: Closure | None = None

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        if self.sparsity > 0 and self.sample_losses is None:
            example_losses(closures[0], "ssam_f")
        self._closure = closures[0]
        return super().handed_gradient(closures)

    def after_base_step(self) -> None:
        closure, self._closure = self._closure, None
        if self.steps % self.update_every or closure is None or self.sparsity == 0:
            return
        losses = self.sample_losses or example_losses(closure, "ssam_f")
        params = self.parameters()
        fisher = [torch.zeros_like(p) for p in params]
        with torch.enable_grad(), self.buffers.frozen(), self._random.kept():
            for gradients in self._of_examples(losses, params):
                self.example_gradients += 1
                for total, g in zip(fisher, gradients, strict=True):
                    if g is not None:
                        total += g.detach() ** 2
        mean_over_ranks(fisher)  # autograd.grad does not pass through DDP
        size = sum(p.numel() for p in params)
        self.mask.set(params, top_mask(fisher, max(1, int(size * (1.0 - self.sparsity)))))

    def _of_examples(
        self, losses: Callable[[], Tensor], params: list[Tensor]
    ) -> Iterator[tuple[Tensor | None, ...]]:
        """The gradient of each of the first ``fisher_samples`` examples, through one graph if possible."""
        drawn = self._random.state()
        values, shared = losses()[: self.fisher_samples], True
        for i in range(len(values)):
            if shared:
                try:
                    yield torch.autograd.grad(
                        values[i], params, retain_graph=i + 1 < len(values), allow_unused=True
                    )
                    continue
                except RuntimeError as error:
                    if "retain_graph" not in str(error):
                        raise
                    shared = False  # torch.compile's backward passes give away what they saved
            self._random.set(drawn)
            yield torch.autograd.grad(losses()[i], params, allow_unused=True)


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
        self.sparsity = check_number("sparsity", sparsity, at_least=0.0, below=1.0)
        self.mask = Mask()
        super().__init__(base, rho=rho, **sparse_rule(self.mask, sparsity), **common)
        self.update_every = check_count("update_every", update_every)
        self.drop_rate = check_number("drop_rate", drop_rate, at_least=0.0, at_most=1.0)
        self.total_steps = check_count("total_steps", total_steps)
        params = self.parameters()
        # Drawn on the CPU, so that the mask does not depend on the device.
        self.mask.generator = torch.Generator().manual_seed(check_seed(seed))
        size = sum(p.numel() for p in params)
        keep = max(1, round(size * (1.0 - self.sparsity)))
        self.mask.set(params, top_mask(self._noise(params), keep))
        self._magnitudes: dict[Tensor, Tensor] = {}

    def _noise(self, params: Sequence[Tensor]) -> list[Tensor]:
        draws = [torch.rand(p.shape, dtype=torch.float64, generator=self.mask.generator) for p in params]
        return [d.to(p.device) for d, p in zip(draws, params, strict=True)]

    def perturbation(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], overwrite: bool = False
    ) -> list[Tensor]:
        if self.sparsity > 0 and self.steps % self.update_every == self.update_every - 1:
            self._magnitudes = {p: g.abs() for p, g in zip(params, gradients, strict=True)}
        return super().perturbation(params, gradients, overwrite)

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
