"""An honest SAM written from scratch, and copies of it with one planted bug each.

``breaks`` names the check that must find the bug; ``also`` those that can't help finding it too.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sharpbench.optim.guards import BufferGuard

Closure = Callable[[], Tensor]


class HonestSAM(Optimizer):
    """SAM along a running mean of gradients: right in every respect, not on sharpbench's base class."""

    breaks: ClassVar[str] = ""
    also: ClassVar[tuple[str, ...]] = ()

    def __init__(self, base: Optimizer, rho: float = 0.05) -> None:
        self.check_arguments(base, rho)
        super().__init__([p for group in base.param_groups for p in group["params"]], {})
        self.base, self.rho = base, rho
        self.share_groups()
        self.mean: dict[int, Tensor] = {}
        self.left: dict[int, tuple[Tensor, int]] = {}
        self.gradient_evaluations = 0
        self.steps = 0

    def check_arguments(self, base: Optimizer, rho: float) -> None:
        if not rho >= 0:
            raise ValueError(f"rho must be >= 0, but got {rho}")
        if any(p.dtype in (torch.bfloat16, torch.float16) for g in base.param_groups for p in g["params"]):
            raise ValueError("half-precision weights round the perturbation away")

    def share_groups(self) -> None:
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    # -- the step ----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        closures = list(closure) if isinstance(closure, list) else [closure]
        params = [p for group in self.param_groups for p in group["params"]]
        self.refuse_accumulated(params)
        start = torch.get_rng_state()
        loss, gradients = self.first_pass(closures, params)
        after = torch.get_rng_state()
        e = self.perturbation(params, gradients)
        with self.perturbed(params, e), self.guard():
            self.rewind(start)
            there_loss, there = self.second_pass(closures, params)
        torch.set_rng_state(after)
        self.hand(params, gradients, there, e)
        self.left = {i: (p.grad, p.grad._version) for i, p in enumerate(params) if p.grad is not None}
        self.steps += 1
        return self.reported(loss, there_loss)

    def refuse_accumulated(self, params: list[Tensor]) -> None:
        for i, p in enumerate(params):
            known = self.left.get(i)
            if p.grad is None or (known and known[0] is p.grad and known[1] == p.grad._version):
                continue
            if bool((p.grad != 0).any()):
                raise ValueError("p.grad holds a gradient already: give step a list of closures")

    def drop(self, params: list[Tensor]) -> None:
        for p in params:
            p.grad = None

    def first_pass(self, closures: list[Closure], params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        return self.evaluate(closures, params)

    def second_pass(
        self, closures: list[Closure], params: list[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        return self.evaluate(closures, params)

    def evaluate(self, closures: list[Closure], params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        total = torch.zeros((), dtype=params[0].dtype)
        sums: list[Tensor | None] = [None] * len(params)
        for closure in closures:
            self.drop(params)
            with torch.enable_grad():
                loss = closure()
            total += loss.detach() / len(closures)
            for i, p in enumerate(params):
                if p.grad is not None:
                    part = self.taken(p) / len(closures)
                    known = sums[i]
                    sums[i] = part if known is None else known + part
        self.gradient_evaluations += 1
        return total, sums

    def taken(self, p: Tensor) -> Tensor:
        assert p.grad is not None
        return p.grad.clone()

    def perturbation(self, params: list[Tensor], gradients: list[Tensor | None]) -> list[Tensor]:
        directions = []
        for i, (p, g) in enumerate(zip(params, gradients, strict=True)):
            if g is None:
                directions.append(torch.zeros_like(p))
                continue
            old = self.mean.get(i)
            self.mean[i] = g.clone() if old is None else 0.5 * old + 0.5 * g
            directions.append(self.mean[i])
        return self.scaled(directions)

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        norm = torch.stack([d.norm() for d in directions]).norm()
        return [d * torch.where(norm > 0, self.rho / norm, 0.0) for d in directions]

    @contextmanager
    def perturbed(self, params: list[Tensor], e: list[Tensor]) -> Iterator[None]:
        saved = [p.clone() for p in params]
        for p, change in zip(params, e, strict=True):
            p.add_(change)
        try:
            yield
        finally:
            for p, value in zip(params, saved, strict=True):
                p.copy_(value)

    def guard(self) -> Any:
        return BufferGuard().frozen()

    def rewind(self, start: Tensor) -> None:
        torch.set_rng_state(start)

    def hand(
        self, params: list[Tensor], at_x: list[Tensor | None], there: list[Tensor | None], e: list[Tensor]
    ) -> None:
        for p, here, g in zip(params, at_x, there, strict=True):
            p.grad = torch.zeros_like(p) if g is None and here is not None else g
        self.base.step()

    def reported(self, at_x: Tensor, there: Tensor) -> Tensor:
        return at_x

    # -- state -------------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        return {
            "mean": dict(self.mean),
            "steps": self.steps,
            "gradient_evaluations": self.gradient_evaluations,
        }

    def state_dict(self) -> dict[str, Any]:
        return {**self.base.state_dict(), "own": self.own_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "own"})
        self.share_groups()
        own = state_dict["own"]
        self.mean = {i: v.clone() for i, v in own.get("mean", {}).items()}
        self.steps, self.gradient_evaluations = own["steps"], own["gradient_evaluations"]


class RestoresBySubtraction(HonestSAM):
    breaks = "weights restored exactly"
    also = ("a loss that is not finite is survived",)  # NaN - NaN is NaN

    @contextmanager
    def perturbed(self, params: list[Tensor], e: list[Tensor]) -> Iterator[None]:
        for p, change in zip(params, e, strict=True):
            p.add_(change)
        try:
            yield
        finally:
            for p, change in zip(params, e, strict=True):
                p.sub_(change)


class ForgetsUnused(HonestSAM):
    breaks = "parameters unused in the second pass restored"

    @contextmanager
    def perturbed(self, params: list[Tensor], e: list[Tensor]) -> Iterator[None]:
        saved = [p.clone() for p in params]
        for p, change in zip(params, e, strict=True):
            p.add_(change)
        failed = True
        try:
            yield
            failed = False
        finally:
            for p, value in zip(params, saved, strict=True):
                if failed or p.grad is not None:
                    p.copy_(value)


class NoFinally(HonestSAM):
    breaks = "weights restored when the closure raises"

    @contextmanager
    def perturbed(self, params: list[Tensor], e: list[Tensor]) -> Iterator[None]:
        saved = [p.clone() for p in params]
        for p, change in zip(params, e, strict=True):
            p.add_(change)
        yield
        for p, value in zip(params, saved, strict=True):
            p.copy_(value)


class RestoresAfterTheBase(HonestSAM):
    breaks = "weights restored exactly"
    also = (
        "parameters unused in the second pass restored",
        "weight decay acts at x",
        "a loss that is not finite is survived",
        "bfloat16 autocast trains and restores",
    )

    @contextmanager
    def perturbed(self, params: list[Tensor], e: list[Tensor]) -> Iterator[None]:
        saved = [p.clone() for p in params]
        for p, change in zip(params, e, strict=True):
            p.add_(change)
        try:
            yield
        except BaseException:
            for p, value in zip(params, saved, strict=True):
                p.copy_(value)
            raise
        self.saved = saved

    def hand(self, params: list[Tensor], at_x: Any, there: Any, e: list[Tensor]) -> None:
        before = [p.clone() for p in params]
        super().hand(params, at_x, there, e)
        for p, value, old in zip(params, self.saved, before, strict=True):
            p.copy_(torch.where(p == old, value, value + (p - old)))


class NoBufferGuard(HonestSAM):
    breaks = "buffers touched once"

    @contextmanager
    def guard(self) -> Iterator[None]:
        yield


class MomentumZeroTrick(HonestSAM):
    breaks = "buffers touched once"

    @contextmanager
    def guard(self) -> Iterator[None]:
        changed: list[tuple[nn.BatchNorm1d, float]] = []

        def before(module: nn.Module, args: Any) -> None:
            if isinstance(module, nn.BatchNorm1d):
                changed.append((module, module.momentum or 0.0))
                module.momentum = 0.0

        hook = nn.modules.module.register_module_forward_pre_hook(before)
        try:
            yield
        finally:
            hook.remove()
            for module, momentum in changed:
                module.momentum = momentum


class NewMask(HonestSAM):
    breaks = "same dropout mask in all passes"

    def rewind(self, start: Tensor) -> None:
        pass


class GlobalGenerator(HonestSAM):
    breaks = "global random streams left alone"
    also = ("same dropout mask in all passes",)

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return super().scaled([d * torch.rand_like(d) for d in directions])

    @torch.no_grad()
    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        loss = super().step(closure)
        torch.rand(())
        return loss


class Unseeded(HonestSAM):
    breaks = "repeatable under a seed"
    also = (
        "global random streams left alone",
        "gradient accumulation equals the whole batch",
        "double precision throughout",
        "resume equals uninterrupted",
        "gradients zeroed in place are no trap",
        "weight decay acts at x",
    )

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(6), "little"))
        return super().scaled(
            [d * torch.rand(d.shape, dtype=d.dtype, generator=generator) for d in directions]
        )


class RankMasks(HonestSAM):
    """Each rank draws for itself which parameters get the second gradient."""

    breaks = "data-parallel ranks agree"

    def hand(self, params: list[Tensor], at_x: Any, there: list[Tensor | None], e: list[Tensor]) -> None:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        coins = torch.rand(len(params), generator=torch.Generator().manual_seed(rank)) < 0.5
        mixed = [g if coin else h for coin, g, h in zip(coins, there, at_x, strict=True)]
        super().hand(params, at_x, mixed, e)


class RankWaits(HonestSAM):
    """One rank evaluates once less, so the other one waits for it in an all-reduce."""

    breaks = "data-parallel ranks agree"

    def second_pass(
        self, closures: list[Closure], params: list[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            return torch.zeros(()), [torch.zeros_like(p) for p in params]
        return super().second_pass(closures, params)


class ForgetsItsMemory(HonestSAM):
    breaks = "resume equals uninterrupted"

    def own_state(self) -> dict[str, Any]:
        return {k: v for k, v in super().own_state().items() if k != "mean"}


class ForgetsItsCounter(HonestSAM):
    breaks = "resume equals uninterrupted"
    also = ("state_dict round trip is bitwise",)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.gradient_evaluations = 0


class SavesAnObject(HonestSAM):
    breaks = "state_dict loads with weights_only=True"
    also = ("resume equals uninterrupted",)

    def own_state(self) -> dict[str, Any]:
        return {**super().own_state(), "settings": Settings()}


class Settings:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings)

    def __hash__(self) -> int:
        return 0


class LoadsInSingle(HonestSAM):
    breaks = "state_dict round trip is bitwise"
    also = ("resume equals uninterrupted",)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.mean = {i: v.float().to(v.dtype) for i, v in self.mean.items()}


class DividesByZero(HonestSAM):
    breaks = "zero gradient is safe"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        norm = torch.stack([d.norm() for d in directions]).norm()
        return [d * (self.rho / norm) for d in directions]


class RaisesOnNaN(HonestSAM):
    breaks = "a loss that is not finite is survived"

    def reported(self, at_x: Tensor, there: Tensor) -> Tensor:
        if not math.isfinite(there.item()):
            raise FloatingPointError("loss is not finite")
        return at_x


class CountsSteps(HonestSAM):
    breaks = "gradient evaluations counted"

    def evaluate(self, closures: list[Closure], params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        result = super().evaluate(closures, params)
        self.gradient_evaluations = self.steps + 1
        return result


class DecaysAtPerturbed(HonestSAM):
    breaks = "weight decay acts at x"

    def hand(self, params: list[Tensor], at_x: Any, there: list[Tensor | None], e: list[Tensor]) -> None:
        decay = self.param_groups[0]["weight_decay"]
        moved = [g if g is None else g + decay * d for g, d in zip(there, e, strict=True)]
        super().hand(params, at_x, moved, e)


class NotTheBase(HonestSAM):
    breaks = "rho = 0 is the base optimizer"

    def hand(self, params: list[Tensor], at_x: Any, there: list[Tensor | None], e: list[Tensor]) -> None:
        mixed = [g if g is None or h is None else g + 0.1 * h for g, h in zip(there, at_x, strict=True)]
        super().hand(params, at_x, mixed, e)


class HandsNothing(HonestSAM):
    breaks = "it trains"
    also = (
        "rho = 0 is the base optimizer",
        "bfloat16 autocast trains and restores",
        "parameter groups keep their learning rate",
        "learning-rate schedulers attach",
    )

    def hand(self, params: list[Tensor], at_x: Any, there: list[Tensor | None], e: list[Tensor]) -> None:
        super().hand(params, at_x, [None if g is None else g * 0.0 for g in there], e)


class LossAtPerturbed(HonestSAM):
    breaks = "the loss reported is the loss at x"

    def reported(self, at_x: Tensor, there: Tensor) -> Tensor:
        return there


class IgnoresGroupRates(HonestSAM):
    breaks = "parameter groups keep their learning rate"

    def hand(self, params: list[Tensor], at_x: list[Tensor | None], there: Any, e: list[Tensor]) -> None:
        super().hand(params, at_x, at_x, e)
        for p, here, g in zip(params, at_x, there, strict=True):
            if here is not None and g is not None:
                p.sub_((g - here) * self.param_groups[0]["lr"])


class CopiesGroups(HonestSAM):
    breaks = "learning-rate schedulers attach"
    also = ("weight decay acts at x",)

    def share_groups(self) -> None:
        self.param_groups = [{**group} for group in self.base.param_groups]
        self.state = self.base.state


class SingleNorm(HonestSAM):
    breaks = "double precision throughout"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        norm = torch.stack([d.float().norm() for d in directions]).norm()
        return [d * torch.where(norm > 0, self.rho / norm, 0.0).to(d.dtype) for d in directions]


class SinglePerturbation(HonestSAM):
    breaks = "double precision throughout"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return [e.float().to(e.dtype) for e in super().scaled(directions)]


class LooksInVain(HonestSAM):
    breaks = "no gradient evaluated twice"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return [d * float(self.steps % 3 == 0) for d in super().scaled(directions)]


class StepsTwice(HonestSAM):
    breaks = "the base optimizer steps once"
    also = ("rho = 0 is the base optimizer", "weight decay acts at x")

    def hand(self, params: list[Tensor], at_x: Any, there: Any, e: list[Tensor]) -> None:
        super().hand(params, at_x, there, e)
        self.base.step()


class FillsMissingGradients(HonestSAM):
    breaks = "parameters without gradient untouched"

    def hand(self, params: list[Tensor], at_x: Any, there: list[Tensor | None], e: list[Tensor]) -> None:
        full = [torch.zeros_like(p) if g is None else g for p, g in zip(params, there, strict=True)]
        super().hand(params, at_x, full, e)


class KeepsReference(HonestSAM):
    """Mixes the gradient at x, kept by reference, into the one handed."""

    breaks = "gradients zeroed in place are no trap"
    also = ("a closure need not zero the gradients",)

    def evaluate(self, closures: list[Closure], params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        if len(closures) > 1:
            return super().evaluate(closures, params)
        with torch.enable_grad():
            loss = closures[0]()
        self.gradient_evaluations += 1
        return loss.detach(), [p.grad for p in params]

    def hand(self, params: list[Tensor], at_x: Any, there: list[Tensor | None], e: list[Tensor]) -> None:
        turn = [
            g if h is None or g is None else g + self.rho * (g - h) for g, h in zip(there, at_x, strict=True)
        ]
        super().hand(params, at_x, turn, e)


class LastPartOnly(HonestSAM):
    breaks = "gradient accumulation equals the whole batch"

    def second_pass(
        self, closures: list[Closure], params: list[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        return super().second_pass(closures[-1:], params)


class AcceptsNegativeRadius(HonestSAM):
    breaks = "negative rho is refused"

    def check_arguments(self, base: Optimizer, rho: float) -> None:
        super().check_arguments(base, abs(rho))


class AcceptsHalf(HonestSAM):
    breaks = "half-precision weights refused or handled"

    def check_arguments(self, base: Optimizer, rho: float) -> None:
        if not rho >= 0:
            raise ValueError("rho must be >= 0")


class RestoresFromHalf(HonestSAM):
    breaks = "bfloat16 autocast trains and restores"
    also = ("weights restored exactly", "parameters unused in the second pass restored")

    @contextmanager
    def perturbed(self, params: list[Tensor], e: list[Tensor]) -> Iterator[None]:
        half = [p.bfloat16() if p.dtype == torch.float32 else p.clone() for p in params]
        with super().perturbed(params, e):
            yield
        for p, value in zip(params, half, strict=True):
            p.copy_(value)


class NeedsGradient(HonestSAM):
    """Looks at p.grad before any closure has run."""

    breaks = "step(closure) is enough"
    # It is then driven with the gradient taken before each step, which is one evaluation too many.
    also = (
        "buffers touched once",
        "same dropout mask in all passes",
        "gradient evaluations counted",
        "no gradient evaluated twice",
    )

    def refuse_accumulated(self, params: list[Tensor]) -> None:
        pass

    def first_pass(self, closures: list[Closure], params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        if self.steps == 0 and all(p.grad is None for p in params):
            raise RuntimeError("no gradient yet")
        return super().first_pass(closures, params)


class DownTheGradient(HonestSAM):
    breaks = "the perturbation goes uphill"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return [-e for e in super().scaled(directions)]


class DownTheSign(HonestSAM):
    """Not along the gradient, and down it."""

    breaks = "the perturbation goes uphill"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return super().scaled([-torch.sign(d) for d in directions])


class TwiceTheRadius(HonestSAM):
    breaks = "a perturbation along the gradient is rho long"
    factor = 2.0

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return [e * self.factor for e in super().scaled(directions)]


class HalfTheRadius(TwiceTheRadius):
    factor = 0.5


class ALittleShort(TwiceTheRadius):
    factor = 0.95


class RootOfTheRadius(HonestSAM):
    breaks = "a perturbation along the gradient is rho long"
    power = 0.5

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        norm = torch.stack([d.norm() for d in directions]).norm()
        return [d * torch.where(norm > 0, self.rho**self.power / norm, 0.0) for d in directions]


class SquareOfTheRadius(RootOfTheRadius):
    power = 2.0


class NoNorm(HonestSAM):
    breaks = "a perturbation along the gradient is rho long"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return [self.rho * d for d in directions]


class MeansNoNorm(NoNorm):
    """Right: unnormalised SAM, which says so."""

    breaks = ""
    perturbation_has_length_rho = False


class SquaredNorm(HonestSAM):
    breaks = "a perturbation along the gradient is rho long"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        norm = torch.stack([d.norm() for d in directions]).norm()
        return [d * torch.where(norm > 0, self.rho / norm**2, 0.0) for d in directions]


class NormOfEachParameter(HonestSAM):
    breaks = "a perturbation along the gradient is rho long"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        return [e for d in directions for e in super(NormOfEachParameter, self).scaled([d])]


class NormOfEachGroup(HonestSAM):
    breaks = "a perturbation along the gradient is rho long"

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        counts = [len(group["params"]) for group in self.param_groups]
        found: list[Tensor] = []
        for count in counts:
            found += super().scaled(directions[len(found) : len(found) + count])
        return found


class AddsToTheLast(HonestSAM):
    """Takes a copy of p.grad, and leaves it to the closure to zero it."""

    breaks = "a closure need not zero the gradients"

    def drop(self, params: list[Tensor]) -> None:
        pass


class DropsAccumulated(HonestSAM):
    breaks = "gradients accumulated before step are noticed"

    def refuse_accumulated(self, params: list[Tensor]) -> None:
        pass


class CountsAccumulatedOnce(HonestSAM):
    """The first pass adds to what is there, the second begins anew."""

    breaks = "gradients accumulated before step are noticed"
    also = ("a closure need not zero the gradients",)

    def refuse_accumulated(self, params: list[Tensor]) -> None:
        self.first = True

    def drop(self, params: list[Tensor]) -> None:
        if not self.first:
            super().drop(params)
        self.first = False


class WarnsOfAccumulated(DropsAccumulated):
    """Right: it makes itself heard."""

    breaks = ""

    def refuse_accumulated(self, params: list[Tensor]) -> None:
        try:
            super(DropsAccumulated, self).refuse_accumulated(params)
        except ValueError as error:
            warnings.warn(f"{error}; what was there is dropped", stacklevel=3)


class PerturbsAtRandom(HonestSAM):
    """Right: its perturbation has nothing to do with the gradient, nor its length with rho alone."""

    def scaled(self, directions: list[Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.steps)
        return [self.rho * torch.randn(d.shape, dtype=d.dtype, generator=generator) for d in directions]


class CountsItsProduct(HonestSAM):
    """Right: takes a Hessian-vector product through a graph of its own, and counts both its passes."""

    def first_pass(self, closures: list[Any], params: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
        found = super().first_pass(closures, params)
        with torch.enable_grad():
            gradients = torch.autograd.grad(closures[0].losses().mean(), params, create_graph=True)
            torch.autograd.grad(gradients, params, [g.detach() for g in gradients])
        self.gradient_evaluations += 2
        return found


class AlwaysRaises(HonestSAM):
    @torch.no_grad()
    def step(self, closure: Any) -> Tensor:  # type: ignore[override]
        raise KeyError("s")


BROKEN: list[type[HonestSAM]] = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, HonestSAM) and kind.breaks
]


class TwoStepSAM(Optimizer):
    """The widespread two-step form, base given as a class; the caller takes the gradient at x first."""

    def __init__(self, params: Any, base_optimizer: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base_optimizer(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.saved: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        with_gradient = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in with_gradient]).norm() if with_gradient else torch.ones(())
        for p in with_gradient:
            self.saved[p] = p.clone()
            p.add_(p.grad * (self.param_groups[0]["rho"] / (norm + 1e-12)))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        for p, value in self.saved.items():
            p.copy_(value)
        self.saved.clear()
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any) -> None:  # type: ignore[override]
        self.first_step(zero_grad=True)
        with torch.enable_grad():
            closure()
        self.second_step()

    def state_dict(self) -> dict[str, Any]:
        return self.base_optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base_optimizer.load_state_dict(state_dict)
        self.param_groups = self.base_optimizer.param_groups


class TwoStepsOnly(TwoStepSAM):
    """step() is not the way in."""

    def step(self, closure: Any = None) -> None:
        raise NotImplementedError("call first_step and second_step")


class AroundAnInstance(TwoStepSAM):
    """The base is given as an instance."""

    def __init__(self, params: Any, base_optimizer: Optimizer, rho: float = 0.05) -> None:
        group = copy.copy(base_optimizer.param_groups[0])
        super().__init__(params, lambda groups, **options: base_optimizer, rho, lr=group["lr"])
        for shared in self.param_groups:
            shared["rho"] = rho


class NeedsSomething(Optimizer):
    """A constructor nobody can guess."""

    def __init__(self, params: Any, oracle: object, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        if not isinstance(oracle, dict):
            raise TypeError("oracle must be a dict")


class NotAnOptimizer:
    pass
