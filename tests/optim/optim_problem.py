"""A small problem that every optimizer is put through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpbench.optim import OPTIMIZERS, BatchLoss, SharpnessAware, complete_parameters
from sharpbench.optim import build as build_exactly

NAMES = [name for name, entry in OPTIMIZERS.items() if not entry.needs_object]


@dataclass
class Problem:
    """A network, its mini-batches and a closure factory."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    def closure(self, opt: torch.optim.Optimizer, index: int) -> BatchLoss:
        x, y = self.batches[index % len(self.batches)]
        return BatchLoss(opt, lambda: nn.functional.cross_entropy(self.model(x), y, reduction="none"))

    def run(self, opt: torch.optim.Optimizer, steps: int, start: int = 0) -> list[float]:
        return [opt.step(self.closure(opt, i)).item() for i in range(start, start + steps)]

    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()


def problem(*, batchnorm: bool = False, dropout: bool = False, seed: int = 0) -> Problem:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(6, 12)]
        if batchnorm:
            layers.append(nn.BatchNorm1d(12))
        layers.append(nn.Tanh())
        if dropout:
            layers.append(nn.Dropout(0.5))
        layers.append(nn.Linear(12, 3))
        model = nn.Sequential(*layers).double()
        batches = [(torch.randn(16, 6).double(), torch.randint(0, 3, (16,))) for _ in range(4)]
    return Problem(model, batches)


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.named_parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


def build(
    name: str, base: torch.optim.Optimizer, model: nn.Module | None = None, **parameters: Any
) -> SharpnessAware:
    """As the harness builds: the length of the training is filled in where a method asks for it."""
    return build_exactly(name, base, model, **complete_parameters(name, parameters, total_steps=6))


def wrap(name: str, model: nn.Module, **parameters: Any) -> SharpnessAware:
    return build(name, sgd(model), **parameters)


def each_call(inner: BatchLoss, act: Callable[[Tensor], None]) -> BatchLoss:
    """``inner`` with ``act`` called on the losses of every evaluation."""

    def losses() -> Tensor:
        values = inner.losses()
        act(values)
        return values

    return BatchLoss(inner.optimizer, losses)
