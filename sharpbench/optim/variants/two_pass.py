"""SAM and the variants that differ from it only in where they look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...errors import must_be
from ..ascent import (
    ElementwiseScale,
    FriendlyResidual,
    GradientEMA,
    InverseRootFisher,
    InverseVariance,
    SignGradient,
    TopMagnitude,
)
from ..base import SharpnessAware
from ..presam import PreSAM


class PassThrough(SharpnessAware):
    """The base optimizer itself, behind the same interface (e = 0); 1 gradient evaluation a step.

    ``build("sgd", base)`` and ``build("adamw", base)`` are this class over the base you pass.
    """

    def __init__(self, base: Optimizer, **common: Any) -> None:
        super().__init__(base, rho=0.0, **common)


class SAM(PreSAM):
    """Sharpness-aware minimisation: e = rho g / ||g||, hands g(x + e).

    Foret et al. 2021, arXiv 2010.01412, eq. 2-3. Default rho .05 (their CIFAR setting). The published PyTorch
    port adds 1e-12 to the norm; here a zero gradient gives e = 0 instead. Cost: 2 gradients a step.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> opt = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = (w**2).sum()
        ...     loss.backward()
        ...     return loss
        >>> loss = opt.step(closure)  # the gradient at 2.5 is 5
        >>> w.data
        tensor([1.5000])
    """

    def __init__(self, base: Optimizer, *, rho: float = 0.05, **common: Any) -> None:
        super().__init__(base, rho=rho, **common)


class ASAM(PreSAM):
    """Adaptive SAM: e = rho T^2 g / ||T g||, T = |x| + eta; a constraint preconditioner D = T^-1.

    Kwon et al. 2021, arXiv 2102.11600, eq. 8. Defaults rho .5, eta .01 (theirs for CIFAR-10). The official
    code rescales only parameters whose name contains "weight" (``rescale="weights"``, the default, which
    needs a base built from ``model.named_parameters()``); ``"all"`` is the paper's formula. Its radius is
    not SAM's: 5 to 10 times larger; ``rho="auto"`` finds one (see ``PreSAM``). Cost: 2 gradients a step.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> ASAM(torch.optim.SGD(model.named_parameters(), lr=0.1))
        ASAM(rho=0.5, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float | str = 0.5,
        eta: float = 0.01,
        rescale: str = "weights",
        **common: Any,
    ) -> None:
        super().__init__(base, rho=rho, constraint=ElementwiseScale(eta, rescale), **common)


class FisherSAM(PreSAM):
    """Fisher SAM: e = rho F^-1 g / sqrt(g^T F^-1 g), F = 1 + eta g^2 (the batch gradient squared).

    Kim et al. 2022, arXiv 2206.04920, Algorithm 1. Defaults rho .1, eta 1. A constraint preconditioner
    D = F^(1/2), so rho does not compare with SAM's (``rho="auto"``: see ``PreSAM``).
    Cost: 2 gradients a step.

    Example:
        >>> FisherSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        FisherSAM(rho=0.1, base=SGD)
    """

    def __init__(self, base: Optimizer, *, rho: float | str = 0.1, eta: float = 1.0, **common: Any) -> None:
        super().__init__(base, rho=rho, constraint=InverseRootFisher(eta), **common)


class LInfSAM(PreSAM):
    """L-infinity SAM: the sign of the gradient.

    ``radius="op"`` is the objective preconditioner C = diag(1/|g|) of arXiv 2501.06603, Table II:
    e = rho sign(g) / sqrt(nnz(g)), of L2 length rho. ``radius="ball"`` is the exact solution on the ball
    ||e||_inf <= rho: e = rho sign(g), of length rho sqrt(nnz). Default rho .05. Cost: 2 gradients a step.

    Example:
        >>> LInfSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), radius="ball", rho=0.001)
        LInfSAM(rho=0.001, base=SGD)
    """

    def __init__(self, base: Optimizer, *, rho: float = 0.05, radius: str = "op", **common: Any) -> None:
        if radius not in ("op", "ball"):
            raise must_be("radius", "'op' or 'ball'", radius)
        super().__init__(base, rho=rho, objective=SignGradient(), **common)
        self.ball = radius == "ball"

    def perturbation(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], overwrite: bool = False
    ) -> list[Tensor]:
        if not self.ball:
            return super().perturbation(params, gradients, overwrite)
        signs = self.objective[0].apply(params, gradients, gradients)
        torch._foreach_mul_(signs, self._radii(params, torch.ones_like(signs[0].sum())))
        return signs


class NSupportSAM(PreSAM):
    """n-support SAM: C keeps the n largest |g| of all parameters, e renormalised to length rho.

    arXiv 2501.06603, Table II. ``n`` is a count or a fraction in (0, 1); defaults rho .05, n 1 %.
    With n = all parameters it is SAM. Cost: 2 gradients a step.

    Example:
        >>> NSupportSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), n=1)
        NSupportSAM(rho=0.05, base=SGD)
    """

    def __init__(self, base: Optimizer, *, rho: float = 0.05, n: float = 0.01, **common: Any) -> None:
        super().__init__(base, rho=rho, objective=TopMagnitude(n), **common)


class L1SAM(PreSAM):
    """L1 SAM: the whole radius on the coordinate with the largest |g| (first index on ties).

    arXiv 2501.06603, Table II: C = e_i e_i^T. Default rho .05. Cost: 2 gradients a step.

    Example:
        >>> L1SAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        L1SAM(rho=0.05, base=SGD)
    """

    def __init__(self, base: Optimizer, *, rho: float = 0.05, **common: Any) -> None:
        super().__init__(base, rho=rho, objective=TopMagnitude(1), **common)


class VaSSO(PreSAM):
    """Variance-suppressed SAM: e along a running mean of gradients, d <- (1 - theta) d + theta g, d_0 = g_0.

    Li & Giannakis 2023, arXiv 2309.15639, eq. 4. Defaults rho .1, theta .9 (the published code's).
    The published code adds 1e-7 to the norm, which shows in the weights at that size: ``epsilon``, kept as
    the default except at theta = 1, where the rule is SAM. Cost: 2 gradients a step.

    Example:
        >>> VaSSO(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), theta=0.4)
        VaSSO(rho=0.1, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.1,
        theta: float = 0.9,
        epsilon: float | None = None,
        **common: Any,
    ) -> None:
        if epsilon is None:
            epsilon = 0.0 if theta == 1.0 else 1e-7
        super().__init__(base, rho=rho, objective=GradientEMA(theta), epsilon=epsilon, **common)


class InfoSAM(PreSAM):
    """InfoSAM: e along g / (sigma^2 + floor), the gradient weighted by how well each entry is known.

    arXiv 2501.06603, eq. 7; no official code is known. ``sigma^2 = (m_t - g_t)^2`` with a running mean m.
    Its prefactor cancels in e, so alpha acts only through the memory of m: here alpha weighs the new
    gradient (``ema="new"``, which fits the published grids); ``ema="literal"`` is eq. 7a as printed.
    The floor is a hyper-parameter the paper leaves open: relative to mean(sigma^2) by default, .1.
    Defaults rho .1, alpha .05. Cost: 2 gradients a step.

    Example:
        >>> InfoSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), alpha=0.01)
        InfoSAM(rho=0.1, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.1,
        alpha: float = 0.05,
        ema: str = "new",
        floor: float = 0.1,
        floor_kind: str = "relative",
        **common: Any,
    ) -> None:
        super().__init__(base, rho=rho, objective=InverseVariance(alpha, ema, floor, floor_kind), **common)


class FriendlySAM(PreSAM):
    """Friendly SAM: e along the batch-specific part of the gradient, g - sigma m_old.

    Li et al. 2024, arXiv 2403.12350, Algorithm 1: m <- lam m + (1 - lam) g, m_0 = g_0; the mean subtracted
    is that of the step before, as in the published code, so the first step is SAM.
    Defaults rho .05, sigma 1, lam .9. Cost: 2 gradients a step.

    Example:
        >>> FriendlySAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        FriendlySAM(rho=0.05, base=SGD)
    """

    def __init__(
        self, base: Optimizer, *, rho: float = 0.05, sigma: float = 1.0, lam: float = 0.9, **common: Any
    ) -> None:
        super().__init__(base, rho=rho, objective=FriendlyResidual(sigma, lam), **common)
