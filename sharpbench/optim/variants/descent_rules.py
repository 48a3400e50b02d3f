"""Variants that look where SAM looks and hand another combination of the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...checks import check_count, check_flag, check_number
from ...errors import must_be
from ..base import Closure
from ..components import Component
from ..gradients import Gradients, combine, complete, inner
from ..presam import PreSAM

# Added to ||g_v||: it vanishes where the gradient does not turn, and 1e-8 is what reference codes add.
SMALL = 1e-8


def _share(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator / denominator, and 0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1.0), 0.0)


class GSAM(PreSAM):
    """Surrogate-gap SAM: hands g_p - alpha (g - <g, g_p>/||g_p||^2 g_p), g_p = g(x + e).

    Zhuang et al. 2022, arXiv 2203.08065, Algorithm 1. Defaults rho .05, alpha .4. With ``rho_min``,
    ``lr_max`` and ``lr_min`` the radius follows the learning rate, as in the paper:
    rho_t = rho_min + (rho - rho_min)(lr - lr_min)/(lr_max - lr_min). With alpha = 0 it is SAM.
    Cost: 2 gradients a step.

    Example:
        >>> GSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), alpha=0.2)
        GSAM(rho=0.05, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        alpha: float = 0.4,
        rho_min: float | None = None,
        lr_max: float | None = None,
        lr_min: float = 0.0,
        **common: Any,
    ) -> None:
        if isinstance(rho, str):
            raise must_be("rho of gsam", "a number >= 0 (it has a schedule of its own)", rho)
        super().__init__(base, rho=rho, **common)
        self.alpha = check_number("alpha", alpha, at_least=0.0)
        self.lr_min = check_number("lr_min", lr_min, at_least=0.0)
        if (rho_min is None) != (lr_max is None):
            raise must_be("rho_min and lr_max", "given together", (rho_min, lr_max))
        if rho_min is not None and lr_max is not None:
            check_number("rho_min", rho_min, at_least=0.0, at_most=rho)
            check_number("lr_max", lr_max, above=lr_min)
        self.rho_min, self.lr_max = rho_min, lr_max

    def radius(self, rho: float | None = None) -> float:
        rho = self.rho if rho is None else rho
        if self.rho_min is None or self.lr_max is None:
            return rho
        share = (float(self.param_groups[0]["lr"]) - self.lr_min) / (self.lr_max - self.lr_min)
        # Warm-up and annealing leave [lr_min, lr_max]; the radius stays within [rho_min, rho].
        return self.rho_min + (rho - self.rho_min) * min(1.0, max(0.0, share))

    def descend(self, at_x: Gradients, there: Gradients | None) -> Gradients:
        if there is None:
            return at_x
        along = _share(inner(at_x, there), inner(there, there))
        return combine((1.0 + self.alpha * along, there), (-self.alpha, at_x))


class GNP(PreSAM):
    """Gradient-norm penalty: hands (1 - alpha) g + alpha g(x + r g/||g||).

    Zhao et al. 2022, arXiv 2202.03599, eq. 10. Defaults r = rho = .1, alpha .8. The published code mixes
    the *unit* gradient by default; this is the paper's rule. With alpha = 1 it is SAM. Cost: 2 gradients.

    Example:
        >>> GNP(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        GNP(rho=0.1, base=SGD)
    """

    def __init__(self, base: Optimizer, *, rho: float = 0.1, alpha: float = 0.8, **common: Any) -> None:
        super().__init__(base, rho=rho, **common)
        self.alpha = check_number("alpha", alpha, at_least=0.0)

    def descend(self, at_x: Gradients, there: Gradients | None) -> Gradients:
        return at_x if there is None else combine((1.0 - self.alpha, at_x), (self.alpha, there))


class WSAM(PreSAM):
    """Weighted SAM: sharpness as a weighted regulariser, c = gamma / (1 - gamma).

    Yue et al. 2023, arXiv 2305.15817. Decoupled (default): the base steps on g, then
    x -= lr c (g_p - g), with each group's own lr. Coupled: hands c g_p + (1 - c) g; with gamma = .5 that is
    SAM. Defaults rho .05, gamma .9. Cost: 2 gradients a step.

    Example:
        >>> WSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), gamma=0.5, decoupled=False)
        WSAM(rho=0.05, base=SGD)
    """

    def __init__(
        self, base: Optimizer, *, rho: float = 0.05, gamma: float = 0.9, decoupled: bool = True, **common: Any
    ) -> None:
        super().__init__(base, rho=rho, **common)
        check_number("gamma", gamma, at_least=0.0, below=1.0)
        self.ratio = gamma / (1.0 - gamma)
        self.decoupled = check_flag("decoupled", decoupled)
        # One entry per evaluated part of the step (several under m-sharpness).
        self._sharpness: list[Gradients] = []

    def begin_step(self) -> None:
        super().begin_step()
        self._sharpness = []

    def descend(self, at_x: Gradients, there: Gradients | None) -> Gradients:
        if there is None:
            return at_x
        if not self.decoupled:
            return combine((self.ratio, there), (1.0 - self.ratio, at_x))
        self._sharpness.append(combine((1.0, there), (-1.0, at_x)))
        return at_x

    def after_base_step(self) -> None:
        parts, self._sharpness = self._sharpness, []
        if not parts:
            return
        mean = combine(*((1.0 / len(parts), part) for part in parts))
        rates = {p: group["lr"] for group in self.param_groups for p in group["params"]}
        for p, difference in zip(self.parameters(), mean, strict=True):
            if difference is not None:
                p.sub_(difference * (rates[p] * self.ratio))


class LookSAM(PreSAM):
    """LookSAM: the second gradient only every k steps, its sharpness part re-used in between.

    Liu et al. 2022, arXiv 2203.02714, Algorithm 1. On steps t with t % k == 0 it is SAM, and stores
    g_v = g_p - (<g, g_p>/||g||^2) g; on the others it hands g + alpha ||g||/(||g_v|| + 1e-8) g_v, norms
    over all parameters (published ports take them per tensor). Defaults rho .1, k 5, alpha .7.
    Cost: 1 + 1/k gradients a step.

    Example:
        >>> LookSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), k=10)
        LookSAM(rho=0.1, base=SGD)
    """

    def __init__(
        self, base: Optimizer, *, rho: float = 0.1, alpha: float = 0.7, k: int = 5, **common: Any
    ) -> None:
        self.sharp = Component()
        super().__init__(base, rho=rho, **common)
        self.alpha = check_number("alpha", alpha, at_least=0.0)
        self.k = check_count("k", k)
        # g_v of each evaluated part of the step (several under m-sharpness).
        self._fresh: list[Gradients] = []

    def begin_step(self) -> None:
        super().begin_step()
        self._fresh = []

    def components(self) -> dict[str, Component]:
        return {**super().components(), "sharp": self.sharp}

    def looks(self, gradients: Sequence[Tensor]) -> bool:
        return self.steps % self.k == 0

    def descend(self, at_x: Gradients, there: Gradients | None) -> Gradients:
        if there is not None:
            along = _share(inner(at_x, there), inner(at_x, at_x))
            self._fresh.append(combine((1.0, there), (-along, at_x)))
            return there
        table = self.sharp.memory.get("direction", {})
        stored: Gradients = [
            table.get(p) if g is not None else None for p, g in zip(self.parameters(), at_x, strict=True)
        ]
        if all(v is None for v in stored):
            return at_x
        scale = inner(at_x, at_x).sqrt() / (inner(stored, stored).sqrt() + SMALL)
        return combine((1.0, at_x), (self.alpha * scale, stored))

    def after_base_step(self) -> None:
        if not self._fresh:
            return
        mean = combine(*((1.0 / len(self._fresh), part) for part in self._fresh))
        self._fresh = []
        self.sharp.memory["direction"] = {
            p: v for p, v in zip(self.parameters(), mean, strict=True) if v is not None
        }


class CRSAM(PreSAM):
    """Curvature-regularised SAM: looks at x + e and x - e.

    Wu et al. 2024, arXiv 2312.13555; the published code's rule: with g_w = g(x + e), g_b = g(x - e), hands
    g_w + gamma (g_w + g_b - 2g) + beta (g_w - g_b). (The paper regularises a logarithm of that trace
    ratio, which the code does not.) Defaults rho .1, gamma .1, beta .01. Cost: 3 gradients a step.

    Example:
        >>> CRSAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        CRSAM(rho=0.1, base=SGD)
    """

    def __init__(
        self, base: Optimizer, *, rho: float = 0.1, gamma: float = 0.1, beta: float = 0.01, **common: Any
    ) -> None:
        super().__init__(base, rho=rho, **common)
        self.gamma = check_number("gamma", gamma)
        self.beta = check_number("beta", beta)

    def handed_gradient(self, closures: Sequence[Closure]) -> tuple[Tensor, Gradients]:
        loss, at_x = self.evaluate(closures)
        params, gradients = self.with_gradient(at_x)
        if not params:
            return loss, at_x
        e = self.perturbation(params, gradients)
        _, worst = self.evaluate_at(params, e, closures)
        _, best = self.evaluate_at(params, torch._foreach_neg(e), closures)
        return loss, combine(
            (1.0 + self.gamma + self.beta, complete(worst, at_x)),
            (self.gamma - self.beta, complete(best, at_x)),
            (-2.0 * self.gamma, at_x),
        )
