"""Where to look: objective preconditioners C and constraint preconditioners D of preSAM.

preSAM (arXiv 2501.06603, eq. 5) perturbs by ``e = rho D^-2 C g / ||D^-1 C g||``, the maximiser of
``<C g, e>`` subject to ``||D e|| <= rho``. An objective preconditioner maps the gradient g to C g; a
constraint preconditioner is given by the diagonal of D^-1. Both act on lists of tensors, one per
parameter; norms and orders are over all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_number
from ..errors import InvalidInput, must_be
from .components import Component
from .norms import global_norm, keep_largest, split_like


class ObjectivePreconditioner(Component):
    """Maps a direction v to C v. Called exactly once per step that perturbs.

    ``gradients`` are those at x, from which C may take its statistics; ``direction`` is what the
    preconditioner before it in the chain returned (the gradients themselves for the first). The result is
    the caller's to overwrite: never a memory, nor one of the arguments.
    Positive multiples of C are equivalent: preSAM normalises.
    """

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        raise NotImplementedError(f"{type(self).__name__} must define apply")


class ConstraintPreconditioner(Component):
    """Gives the diagonal of D^-1 at the present weights and gradient."""

    def inverse(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        raise NotImplementedError(f"{type(self).__name__} must define inverse")


class InverseVariance(ObjectivePreconditioner):
    """C = diag(1 / (sigma^2 + floor)), sigma^2 = (m_t - g_t)^2: InfoSAM (2501.06603, eq. 7).

    ``m`` is a running mean of gradients. With ``ema="new"`` alpha is the weight of the new gradient,
    ``m <- (1 - alpha) m + alpha g``; ``ema="literal"`` takes eq. 7a to the letter, where alpha weighs the
    old mean. The first step has m_0 = g_0 and sigma^2 = 0, so C = I (plain SAM).

    Without a floor the perturbation collapses onto the handful of coordinates whose deviation happens
    to be smallest; the relative floor adds ``floor * mean(sigma^2)``, which keeps the rule invariant to
    the scale of the loss. In a chain sigma^2 is still that of the gradients at x.

    Args:
        alpha: in [0, 1].
        floor: > 0; relative to the mean of sigma^2 or absolute.
    """

    def __init__(
        self, alpha: float = 0.05, ema: str = "new", floor: float = 0.1, floor_kind: str = "relative"
    ) -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, at_least=0.0, at_most=1.0)
        self.floor = check_number("floor", floor, above=0.0)
        if ema not in ("new", "literal"):
            raise must_be("ema", "'new' or 'literal'", ema)
        if floor_kind not in ("relative", "absolute"):
            raise must_be("floor_kind", "'relative' or 'absolute'", floor_kind)
        self.ema = ema
        self.floor_kind = floor_kind

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        old_weight = 1.0 - self.alpha if self.ema == "new" else self.alpha
        gradients = list(gradients)
        mean = self.remembered("mean", params, gradients)
        if old_weight == 0.0:  # m_t = g_t: sigma^2 = 0 everywhere, which is SAM
            torch._foreach_copy_(mean, gradients)
            return [v.clone() for v in direction]
        # m_t - g = old_weight (m_{t-1} - g): from the old mean, so that nothing cancels.
        variance = torch._foreach_sub(gradients, mean)
        torch._foreach_lerp_(mean, gradients, 1.0 - old_weight)
        size = sum(v.numel() for v in variance)
        if self.floor_kind == "relative":
            # sigma^2 / mean(sigma^2) + floor, which is proportional to sigma^2 + floor mean(sigma^2) and
            # lies within [floor, ...): neither underflow nor overflow, and C = I where sigma^2 = 0.
            root_mean = global_norm(variance) / size**0.5
            torch._foreach_div_(variance, torch.where(root_mean > 0, root_mean, 1.0))
            torch._foreach_mul_(variance, variance)
            torch._foreach_add_(variance, self.floor)
        else:
            torch._foreach_mul_(variance, old_weight)
            torch._foreach_mul_(variance, variance)
            torch._foreach_div_(variance, self.floor)
            torch._foreach_add_(variance, 1.0)
        return list(torch._foreach_div(list(direction), variance))


class GradientEMA(ObjectivePreconditioner):
    """C g = d, d <- (1 - theta) d + theta g, d_0 = g_0: VaSSO (Li & Giannakis 2023, arXiv 2309.15639)."""

    def __init__(self, theta: float = 0.9) -> None:
        super().__init__()
        self.theta = check_number("theta", theta, above=0.0, at_most=1.0)

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        incoming = list(direction)
        slow = self.remembered("mean", params, incoming)
        if self.theta == 1.0:
            torch._foreach_copy_(slow, incoming)
        else:
            torch._foreach_mul_(slow, 1.0 - self.theta)
            torch._foreach_add_(slow, incoming, alpha=self.theta)
        return [d.clone() for d in slow]


class FriendlyResidual(ObjectivePreconditioner):
    """C g = g - sigma m_old, m <- lam m + (1 - lam) g, m_0 = g_0: F-SAM (Li et al. 2024, 2403.12350).

    The mean subtracted is the one from *before* this step; the first step subtracts nothing.
    """

    def __init__(self, sigma: float = 1.0, lam: float = 0.9) -> None:
        super().__init__()
        self.sigma = check_number("sigma", sigma)
        self.lam = check_number("lam", lam, at_least=0.0, at_most=1.0)

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        incoming = list(direction)
        known = self.memory.get("mean", {})
        fresh = [p not in known for p in params]
        mean = self.remembered("mean", params, incoming)
        residual = [
            g.clone() if new else g - self.sigma * m for g, m, new in zip(incoming, mean, fresh, strict=True)
        ]
        torch._foreach_lerp_(mean, incoming, 1.0 - self.lam)
        return residual


class TopMagnitude(ObjectivePreconditioner):
    """C keeps the n largest |g| over all parameters (2501.06603, Table II; n = 1 is the L1 ball).

    Args:
        n: a count >= 1, or a fraction in (0, 1) of the number of parameters (at least one is kept).
            Ties are broken towards the first index.
    """

    def __init__(self, n: float = 0.01) -> None:
        super().__init__()
        whole = isinstance(n, int) and not isinstance(n, bool)
        if not (n >= 1 if whole else isinstance(n, float) and 0 < n < 1):
            raise must_be("n", "a whole number >= 1 or a fraction in (0, 1)", n)
        self.n = n

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        flat = torch.cat([v.reshape(-1) for v in direction])
        count = self.n if self.n >= 1 else max(1, round(self.n * flat.numel()))
        count = min(int(count), flat.numel())
        if count == 1:
            kept = flat.abs().argmax().reshape(1)
            result = torch.zeros_like(flat)
            result[kept] = flat[kept]
            return split_like(result, direction)
        return split_like(keep_largest(flat, count), direction)


class SignGradient(ObjectivePreconditioner):
    """C = diag(1/|g|), so C g = sign(g) with 0/0 = 0 (2501.06603, Table II row 1)."""

    def apply(
        self, params: Sequence[Tensor], gradients: Sequence[Tensor], direction: Sequence[Tensor]
    ) -> list[Tensor]:
        return list(torch._foreach_sign(list(direction)))


class ElementwiseScale(ConstraintPreconditioner):
    """D^-1 = T = diag(|x| + eta): ASAM (Kwon et al. 2021, arXiv 2102.11600).

    Args:
        eta: > 0 or 0; keeps weights near zero movable.
        rescale: ``"weights"`` leaves T = 1 on every parameter whose name has no "weight", as the official
            code does (needs a base built from named parameters); ``"all"`` is the paper's formula.
    """

    def __init__(self, eta: float = 0.01, rescale: str = "weights") -> None:
        super().__init__()
        self.eta = check_number("eta", eta, at_least=0.0)
        if rescale not in ("weights", "all"):
            raise must_be("rescale", "'weights' or 'all'", rescale)
        self.rescale = rescale
        self._scaled: set[Tensor] | None = None  # None: all of them

    def bind(self, params: Sequence[Tensor], names: dict[Tensor, str] | None) -> None:
        if self.rescale == "all":
            return
        if names is None:
            raise InvalidInput(
                "rescale='weights' needs the parameters' names: build the base from "
                "model.named_parameters(), or choose rescale='all'"
            )
        self._scaled = {p for p in params if "weight" in names[p]}

    def inverse(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        return [
            p.detach().abs().add_(self.eta)
            if self._scaled is None or p in self._scaled
            else torch.ones_like(p)
            for p in params
        ]


class InverseRootFisher(ConstraintPreconditioner):
    """D^-2 = 1 / (1 + eta g^2), the batch gradient squared: FisherSAM (Kim et al. 2022, 2206.04920)."""

    def __init__(self, eta: float = 1.0) -> None:
        super().__init__()
        self.eta = check_number("eta", eta, at_least=0.0)

    def inverse(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        squares = torch._foreach_mul(list(gradients), list(gradients))
        torch._foreach_mul_(squares, self.eta)
        torch._foreach_add_(squares, 1.0)
        torch._foreach_sqrt_(squares)
        torch._foreach_reciprocal_(squares)
        return list(squares)
