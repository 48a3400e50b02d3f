"""Variants that decide, step by step, whether a second look is worth its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...checks import check_count, check_number, check_seed
from ...errors import InvalidInput, must_be
from ..components import Component
from ..norms import global_norm
from ..presam import PreSAM


class LazySAM(PreSAM):
    """Scheduled stochastic SAM: SAM with probability p, the base alone otherwise (C = 0).

    Zhao et al. 2022, arXiv 2203.09962. ``schedule="constant"`` keeps p; ``"linear"`` lets the probability
    grow as p t/T and ``"trigonometric"`` as p (1 - cos(pi t/T))/2 over ``total_steps`` T, so that p is its
    final value. ``policy``, a callable step → bool, replaces the coin. Defaults rho .05, p .5.
    The coin is the optimizer's own generator (``seed``). Cost: 1 + p gradients a step.

    Example:
        >>> opt = LazySAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1),
        ...               policy=lambda step: step % 2 == 0)
        >>> opt
        LazySAM(rho=0.05, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        p: float = 0.5,
        schedule: str = "constant",
        total_steps: int | None = None,
        policy: Callable[[int], bool] | None = None,
        seed: int = 0,
        **common: Any,
    ) -> None:
        self.coin = Component()
        self.coin.generator = torch.Generator().manual_seed(check_seed(seed))
        super().__init__(base, rho=rho, **common)
        self.p = check_number("p", p, at_least=0.0, at_most=1.0)
        if schedule not in ("constant", "linear", "trigonometric"):
            raise must_be("schedule", "'constant', 'linear' or 'trigonometric'", schedule)
        if schedule != "constant":
            total_steps = _whole_training(total_steps)
        if policy is not None and not callable(policy):
            raise must_be("policy", "a callable step -> bool", policy)
        self.schedule, self.total_steps, self.policy = schedule, total_steps, policy

    def components(self) -> dict[str, Component]:
        return {**super().components(), "coin": self.coin}

    def probability(self) -> float:
        """The chance of a second look at this step."""
        if self.schedule == "constant" or self.total_steps is None:
            return self.p
        t = min(1.0, self.steps / self.total_steps)
        return self.p * (t if self.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * t)))

    def looks(self, gradients: Sequence[Tensor]) -> bool:
        if self.policy is not None:
            return bool(self.policy(self.steps))
        # Drawn on the CPU: no device synchronisation, and the same coin on every rank.
        return torch.rand((), generator=self.coin.generator, dtype=torch.float64).item() < self.probability()


class AESAM(PreSAM):
    """AE-SAM: SAM only where the gradient is large for its time.

    Jiang et al. 2023 (ICLR), Algorithm 1. With s = ||g||^2, running mean mu <- delta mu + (1-delta) s and
    variance v <- delta v + (1-delta)(s - mu)^2 (started at mu = s_0, v = 0), looks where
    s >= mu + c_t sqrt(v), c_t = (t/T) lambda1 + (1 - t/T) lambda2. Defaults rho .05, delta .9, lambda1 -1,
    lambda2 1. The decision needs ||g|| on the host, one synchronisation a step.
    Cost: 1 + the share of steps that look.

    Example:
        >>> AESAM(torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), total_steps=100)
        AESAM(rho=0.05, base=SGD)
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        rho: float = 0.05,
        delta: float = 0.9,
        lambda1: float = -1.0,
        lambda2: float = 1.0,
        total_steps: int | None = None,
        **common: Any,
    ) -> None:
        self.trend = Component()
        super().__init__(base, rho=rho, **common)
        self.delta = check_number("delta", delta, at_least=0.0, below=1.0)
        self.lambda1, self.lambda2 = check_number("lambda1", lambda1), check_number("lambda2", lambda2)
        self.total_steps = _whole_training(total_steps)

    def components(self) -> dict[str, Component]:
        return {**super().components(), "trend": self.trend}

    def looks(self, gradients: Sequence[Tensor]) -> bool:
        s = global_norm(gradients).item() ** 2
        if "mean" not in self.trend.scalars:  # mu = s, v = 0: s >= mu, whatever rounding would say
            self.trend.scalars.update(mean=s, variance=0.0)
            return True
        mean, variance = self.trend.scalars["mean"], self.trend.scalars["variance"]
        mean = self.delta * mean + (1.0 - self.delta) * s
        variance = self.delta * variance + (1.0 - self.delta) * (s - mean) ** 2
        self.trend.scalars.update(mean=mean, variance=variance)
        t = min(1.0, self.steps / self.total_steps)
        return bool(s >= mean + (t * self.lambda1 + (1.0 - t) * self.lambda2) * math.sqrt(variance))


def _whole_training(total_steps: int | None) -> int:
    if total_steps is None:
        raise InvalidInput("total_steps is needed: the number of steps of the whole training")
    return check_count("total_steps", total_steps)
