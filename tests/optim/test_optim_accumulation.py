"""Gradients that stand in ``p.grad`` before a step, and closures that don't zero them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from optim_problem import NAMES, Problem, problem, sgd, wrap
from torch import Tensor, nn

from sharpbench.errors import InvalidInput
from sharpbench.optim import BatchLoss, SharpnessAware, build

PLAIN = [name for name in NAMES if name not in ("esam", "ssam_f")]  # those need BatchLoss closures


class NeverZeroes(BatchLoss):
    """A closure that leaves the gradients to the optimizer."""

    def __call__(self) -> Tensor:
        loss = self.losses().mean()
        loss.backward()
        return loss


def never_zeroing(p: Problem, opt: torch.optim.Optimizer, index: int) -> BatchLoss:
    return NeverZeroes(opt, p.closure(opt, index).losses)


@pytest.mark.parametrize("name", NAMES)
def test_a_closure_that_does_not_zero_trains_the_same(name: str) -> None:
    zeroing, leaving = problem(), problem()
    zeroing.run(opt := wrap(name, zeroing.model), 4)
    other = wrap(name, leaving.model)
    for i in range(4):
        other.step(never_zeroing(leaving, other, i))
    assert torch.equal(zeroing.weights(), leaving.weights())
    assert opt.gradient_evaluations == other.gradient_evaluations


@pytest.mark.parametrize("zeroes", [True, False])
@pytest.mark.parametrize("earlier", [1, 2])
@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize("name", ["sgd", "sam", "msam", "wsam", "frob_sam"])
def test_accumulated_gradients_are_refused(name: str, steps_before: int, earlier: int, zeroes: bool) -> None:
    p = problem()
    opt = wrap(name, p.model)
    p.run(opt, steps_before)
    opt.zero_grad()
    for i in range(earlier):
        never_zeroing(p, opt, i)()
    before, found = p.weights(), [q.grad.clone() for q in p.model.parameters()]
    closure = p.closure(opt, 2) if zeroes else never_zeroing(p, opt, 2)
    with pytest.raises(InvalidInput) as caught:
        opt.step(closure)
    said = str(caught.value)
    assert "\n" not in said
    assert "opt.step([closure_1, closure_2, ...])" in said
    assert "opt.zero_grad() before step" in said
    assert torch.equal(p.weights(), before)
    assert all(torch.equal(q.grad, g) for q, g in zip(p.model.parameters(), found, strict=True))
    assert opt.steps == steps_before
    opt.zero_grad()
    opt.step(closure)
    assert opt.steps == steps_before + 1


def test_what_is_accumulated_on_the_gradient_of_the_last_step_is_refused() -> None:
    p = problem()
    opt = wrap("sam", p.model)
    p.run(opt, 2)
    never_zeroing(p, opt, 2)()  # in place, into the tensor that the step left there
    with pytest.raises(InvalidInput, match="computed before step"):
        opt.step(p.closure(opt, 3))


def test_one_parameter_in_a_later_group_is_enough() -> None:
    p = problem()
    first, *others = p.model.parameters()
    opt = build("sam", torch.optim.SGD([{"params": [first]}, {"params": others, "lr": 0.01}], lr=0.1))
    p.run(opt, 1)
    opt.zero_grad()
    (others[-1] ** 2).sum().backward()
    with pytest.raises(InvalidInput, match="computed before step"):
        opt.step(p.closure(opt, 1))


def leave(p: Problem, opt: SharpnessAware) -> None:
    """The usual loop: nothing outside, ``zero_grad`` in the closure."""


def zero_outside(p: Problem, opt: SharpnessAware) -> None:
    opt.zero_grad()


def zero_in_place(p: Problem, opt: SharpnessAware) -> None:
    opt.zero_grad(set_to_none=False)


def zero_the_model_in_place(p: Problem, opt: SharpnessAware) -> None:
    p.model.zero_grad(set_to_none=False)


def convert_and_back(p: Problem, opt: SharpnessAware) -> None:
    p.model.float().double()


@pytest.mark.parametrize(
    "between", [leave, zero_outside, zero_in_place, zero_the_model_in_place], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("name", ["sgd", "sam", "gsam", "msam"])
def test_what_the_last_step_left_is_no_accumulated_gradient(
    name: str, between: Callable[[Problem, SharpnessAware], None]
) -> None:
    p, plain = problem(), problem()
    opt = wrap(name, p.model)
    for i in range(3):
        opt.step(p.closure(opt, i))
        between(p, opt)
    plain.run(wrap(name, plain.model), 3)
    assert torch.equal(p.weights(), plain.weights())


def test_moving_the_network_between_steps_is_no_accumulation() -> None:
    p = problem()
    opt = wrap("sam", p.model)
    p.run(opt, 1)
    convert_and_back(p, opt)
    p.run(opt, 1, start=1)
    assert opt.steps == 2


def test_a_second_optimizer_of_the_same_network_may_begin_where_the_first_ended() -> None:
    p = problem()
    p.run(wrap("sam", p.model), 2)
    p.run(wrap("asam", p.model), 1)


def test_a_copy_goes_on() -> None:
    p = problem()
    opt = wrap("sam", p.model)
    p.run(opt, 2)
    model, twin = copy.deepcopy((p.model, opt))
    other = Problem(model, p.batches)
    p.run(opt, 2, start=2)
    other.run(twin, 2, start=2)
    assert torch.equal(p.weights(), other.weights())


@pytest.mark.parametrize("bad_pass", [1, 2])
def test_a_gradient_that_a_failed_step_left_half_done_does_not_stand_in_the_way(bad_pass: int) -> None:
    p, plain = problem(), problem()
    opt = wrap("sam", p.model)
    calls = 0

    def fails() -> Tensor:
        nonlocal calls
        calls += 1
        loss = p.closure(opt, 0)()
        if calls == bad_pass:
            raise MemoryError
        return loss

    with pytest.raises(MemoryError):
        opt.step(fails)
    assert all(q.grad is None for q in p.model.parameters())
    p.run(opt, 2)
    plain.run(wrap("sam", plain.model), 2)
    assert torch.equal(p.weights(), plain.weights())


def test_a_parameter_frozen_between_steps_stands_still() -> None:
    """Its last gradient would otherwise stay in p.grad, and the base step on it for ever."""
    p = problem()
    opt = wrap("sam", p.model)
    opt.step(never_zeroing(p, opt, 0))
    bias = next(q for q in p.model.parameters() if q.ndim == 1)
    bias.requires_grad_(False)
    before = bias.detach().clone()
    for i in range(2):
        opt.step(never_zeroing(p, opt, i))
    assert torch.equal(bias, before)


@pytest.mark.parametrize("m_sharpness", [False, True])
def test_lists_of_closures_that_do_not_zero(m_sharpness: bool) -> None:
    zeroing, leaving = problem(), problem()
    for p, make in ((zeroing, Problem.closure), (leaving, never_zeroing)):
        opt = wrap("sam", p.model, m_sharpness=m_sharpness)
        for i in range(3):
            opt.step([make(p, opt, i), make(p, opt, i + 1)])
    assert torch.equal(zeroing.weights(), leaving.weights())


def test_the_step_leaves_the_handed_gradient() -> None:
    """Hooks and loggers read p.grad after the step."""
    p = problem()
    opt = wrap("sam", p.model)
    p.run(opt, 1)
    assert all(q.grad is not None and q.grad.abs().sum() > 0 for q in p.model.parameters())


def test_the_memory_of_a_zeroed_gradient_is_free() -> None:
    import gc
    import weakref

    p = problem()
    opt = wrap("sam", p.model)
    p.run(opt, 1)
    held = [weakref.ref(q.grad) for q in p.model.parameters()]
    opt.zero_grad()
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)


def test_a_base_that_needs_a_closure_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="LBFGS can't be the base: its step needs closure"):
        build("sam", torch.optim.LBFGS(nn.Linear(2, 1).parameters()))
    build("sam", sgd(nn.Linear(2, 1)))
