"""Named members of the universal class: Trace-SAM, Det-SAM and Frob-SAM, in both samplings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from ...functionals import FROBENIUS, TRACE, Measure, determinant_measure
from ..universal import UniversalSAM


class TraceSAM(UniversalSAM):
    """Trace-SAM: psi t, phi t, mu N(0, I); penalises half the Hessian's trace.

    arXiv 2406.03682 and its published code (rho .01, weight 1, n 1, plain sampling). With n = 1 and
    weight 1 the plain face hands g(x + rho u): random weight perturbation. The antithetic face removes the
    gradient term. Cost: n + 1 gradients a step, 2n + 1 antithetic.

    Example:
        >>> import torch
        >>> TraceSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        TraceSAM(rho=0.01, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.01,
        n_samples: int = 1,
        weight: float = 1.0,
        sampling: str = "plain",
        seed: int = 0,
        **common: Any,
    ) -> None:
        # The published code's phi is t, half of the trace functional's 2t.
        measure = Measure("trace_sam", TRACE.psi, lambda m: m, TRACE.mu, formula="tr H / 2")
        super().__init__(
            base, measure, rho=rho, n_samples=n_samples, weight=weight, sampling=sampling, seed=seed, **common
        )


class DetSAM(UniversalSAM):
    """Det-SAM: psi e^(-t/2), phi t^-2, mu Unif[-.01, .01]^d.

    arXiv 2406.03682 and its published code (rho 1, weight 1, n 1, plain sampling). With one sample
    phi(psi(t)) = e^t, so the plain face hands g + e^Delta (g(x + u) - g), which differs from random weight
    perturbation by less than one percent. Cost: n + 1 gradients a step, 2n + 1 antithetic.

    Example:
        >>> import torch
        >>> DetSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), n_samples=2)
        DetSAM(rho=1.0, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 1.0,
        n_samples: int = 1,
        weight: float = 1.0,
        sampling: str = "plain",
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(
            base,
            determinant_measure(0.01),
            rho=rho,
            n_samples=n_samples,
            weight=weight,
            sampling=sampling,
            seed=seed,
            **common,
        )


class FrobSAM(UniversalSAM):
    """Frob-SAM: the variance of the loss under Gaussian perturbations.

    arXiv 2406.03682 and its published code (rho .005, weight .005, n 2, plain sampling), which hands
    ``g + (weight / rho^2) Cov_n(L_i, g_i)``, the covariance with 1/(n-1): weight/2 times the gradient of
    Var(L(x + rho u))/rho^2. Away from a critical point its mean direction is that of H g, a gradient-norm
    penalty; the Frobenius part is below one percent of it.
    ``sampling="antithetic"`` penalises ``weight rho^2 ||H||_F^2`` itself, with the unbiased
    2 Var(Delta), also where the gradient is not zero: four times the published functional at the same
    weight, and without its gradient part it still needs a much larger weight to be felt.
    Cost: n + 1 gradients a step, 2n + 1 antithetic.

    Example:
        >>> import torch
        >>> FrobSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        FrobSAM(rho=0.005, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.005,
        n_samples: int = 2,
        weight: float = 0.005,
        sampling: str = "plain",
        seed: int = 0,
        **common: Any,
    ) -> None:
        # (weight/rho^2) Cov is weight rho^2 times the gradient of Var(Delta)/2, a quarter of 2 Var(Delta).
        published = Measure(
            "frob_sam",
            FROBENIUS.psi,
            lambda m: 0.5 * (m[1] - m[0] ** 2),
            FROBENIUS.mu,
            lambda samples: 0.5 * samples.var(0, correction=1),
            smallest_sample=2,
            formula="||H||_F^2 / 4 (and ||g||^2 / (2 rho^2) with it)",
        )
        super().__init__(
            base,
            published if sampling == "plain" else replace(FROBENIUS),
            rho=rho,
            n_samples=n_samples,
            weight=weight,
            sampling=sampling,
            seed=seed,
            **common,
        )
