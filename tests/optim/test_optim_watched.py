"""The base optimizer's step: with torch's hooks and profiler when they watch, without them when not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from sharpbench.optim import build


def trained(base: str, steps: int = 3, **options: Any) -> tuple[Tensor, Any]:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = build("sam", getattr(torch.optim, base)([("weight", weight)], lr=0.1, **options), rho=0.05)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weight**4).sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return weight.detach(), optimizer


@pytest.mark.parametrize("base", ["SGD", "AdamW", "RMSprop", "Adagrad"])
def test_the_step_underneath_is_the_step(base: str) -> None:
    plain, _ = trained(base)
    hook = register_optimizer_step_post_hook(lambda *_: None)  # now everything goes through torch's wrapper
    try:
        wrapped, _ = trained(base)
    finally:
        hook.remove()
    assert torch.equal(plain, wrapped)
    assert not torch.equal(plain, torch.tensor([1.0, -2.0]))


def test_hooks_and_patched_steps_are_run() -> None:
    weight, optimizer = trained("SGD")
    said: list[str] = []
    optimizer.base.register_step_pre_hook(lambda *_: said.append("before"))
    optimizer.base.register_step_post_hook(lambda *_: said.append("after"))
    optimizer.step(lambda: (weight * 0).sum().requires_grad_())
    assert said == ["before", "after"]

    _, optimizer = trained("SGD")
    inner = optimizer.base.step
    optimizer.base.step = lambda *args: said.append("patched") or inner(*args)
    optimizer.step(lambda: (weight * 0).sum().requires_grad_())
    assert said[-1] == "patched"


def test_the_profiler_sees_the_step() -> None:
    weight, optimizer = trained("SGD")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step(lambda: (weight * 0).sum().requires_grad_())
    assert any("Optimizer.step#SGD" in event.key for event in profile.key_averages())
