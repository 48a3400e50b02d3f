"""What any sharpness-aware optimizer must satisfy, over every registered one at once."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from optim_problem import NAMES, build, each_call, problem, sgd, wrap
from torch import Tensor, nn

from sharpbench.errors import InvalidInput
from sharpbench.optim import OPTIMIZERS, BatchLoss, SharpnessAware

EVERY = pytest.mark.parametrize("name", NAMES)
PERTURBING = pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sgd", "adamw")])


class KeepingTensors(BatchLoss):
    """A closure that zeroes the gradients in place instead of dropping them."""

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=False)
        loss = self.losses().mean()
        loss.backward()
        return loss


OCCASIONAL = ("lazy", "aesam", "looksam")
#: rules whose only pass is at a perturbed point (momentum SAM)
ELSEWHERE = ("msam",)


def evaluations(opt: SharpnessAware) -> int:
    """Gradient evaluations of a step that takes its second look."""
    samples = getattr(opt, "n_samples", None)
    if samples is not None:
        return samples + 1
    return {"PassThrough": 1, "MSAM": 1, "CRSAM": 3}.get(type(opt).__name__, 2)


@EVERY
def test_buffers_are_updated_once_per_step(name: str) -> None:
    p = problem(batchnorm=True)
    twin = problem(batchnorm=True)
    opt = wrap(name, p.model)
    for i in range(3):
        if name in ELSEWHERE and i > 0:
            break
        with torch.no_grad():
            for a, b in zip(twin.model.parameters(), p.model.parameters(), strict=True):
                a.copy_(b)
        twin.model(twin.batches[i][0])  # one plain forward pass at the same weights
        opt.step(p.closure(opt, i))
        for (key, ours), plain in zip(p.model.named_buffers(), twin.model.buffers(), strict=True):
            assert torch.equal(ours, plain), key


@EVERY
def test_buffers_with_the_model_given(name: str) -> None:
    found, given = problem(batchnorm=True), problem(batchnorm=True)
    a = wrap(name, found.model)
    b = build(name, sgd(given.model), given.model)
    found.run(a, 3)
    given.run(b, 3)
    for x, y in zip(found.model.state_dict().values(), given.model.state_dict().values(), strict=True):
        assert torch.equal(x, y)


@EVERY
def test_all_passes_of_a_step_share_the_dropout_mask_and_leave_one_pass_of_randomness(name: str) -> None:
    p = problem(dropout=True)
    opt = wrap(name, p.model)
    masks: list[Tensor] = []
    p.model[2].register_forward_hook(lambda module, args, out: masks.append((out == 0).detach()))
    torch.manual_seed(3)
    opt.step(p.closure(opt, 0))
    after = torch.get_rng_state()
    assert len(masks) == evaluations(opt) + (name == "ssam_f") or name in OCCASIONAL
    assert all(torch.equal(masks[0], m) for m in masks[: evaluations(opt)])
    torch.manual_seed(3)
    p.model(p.batches[0][0])
    assert torch.equal(after, torch.get_rng_state())


@EVERY
def test_gradient_evaluations_are_counted(name: str) -> None:
    p = problem()
    opt = wrap(name, p.model)
    seen: list[Tensor] = []
    closure = each_call(p.closure(opt, 0), seen.append)
    for _ in range(4):
        opt.step(closure)
    # The first step of sparse SAM also takes the gradients of its 16 examples, through one graph.
    calls = len(seen) - (name == "ssam_f")
    assert opt.example_gradients == (16 if name == "ssam_f" else 0)
    assert opt.gradient_evaluations == calls
    assert calls == 4 * evaluations(opt) if name not in OCCASIONAL else 4 <= calls <= 8


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ELSEWHERE])
def test_the_loss_returned_is_the_loss_at_x(name: str) -> None:
    p = problem()
    opt = wrap(name, p.model)
    p.run(opt, 2)
    x, y = p.batches[2]
    expected = nn.functional.cross_entropy(p.model(x), y, reduction="none").mean().item()
    loss = opt.step(p.closure(opt, 2))
    assert loss.item() == expected
    assert not loss.requires_grad


@EVERY
def test_continuation_from_state_dict_is_bitwise_the_same(name: str) -> None:
    whole, parts = problem(batchnorm=True), problem(batchnorm=True)
    opt = wrap(name, whole.model)
    whole.run(opt, 6)

    first = wrap(name, parts.model)
    parts.run(first, 3)
    file = io.BytesIO()
    torch.save({"model": parts.model.state_dict(), "opt": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    fresh = problem(batchnorm=True, seed=5)
    second = wrap(name, fresh.model)
    fresh.model.load_state_dict(saved["model"])
    second.load_state_dict(saved["opt"])
    fresh.batches = parts.batches
    fresh.run(second, 3, start=3)
    assert torch.equal(whole.weights(), fresh.weights())
    assert second.gradient_evaluations == opt.gradient_evaluations
    assert second.steps == 6


@EVERY
def test_state_round_trip_is_exact(name: str) -> None:
    p = problem()
    opt = wrap(name, p.model)
    p.run(opt, 3)
    before = opt.state_dict()
    other = wrap(name, p.model)
    other.load_state_dict(before)
    assert_same(before, other.state_dict())


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@EVERY
def test_zero_gradient_moves_nothing_and_is_no_nan(name: str) -> None:
    model = nn.Linear(3, 1).double()
    opt = build(name, torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9))
    before = [p.detach().clone() for p in model.parameters()]

    closure = BatchLoss(opt, lambda: torch.stack([p.sum() * 0.0 for p in model.parameters()]))
    for _ in range(2):
        opt.step(closure)
    for p, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, b)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sgd", "adamw", "lazy", "msam")])
def test_weights_come_back_bitwise_when_the_closure_raises_at_the_perturbed_point(name: str) -> None:
    p = problem(batchnorm=True)
    opt = wrap(name, p.model)
    calls = 0

    def fail(losses: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("out of memory, say")

    closure = each_call(p.closure(opt, 0), fail)
    before = p.weights()
    with pytest.raises(RuntimeError, match="out of memory"):
        opt.step(closure)
    assert torch.equal(p.weights(), before)
    assert p.model[1].num_batches_tracked.item() == 1


@PERTURBING
def test_the_base_steps_from_exactly_x(name: str) -> None:
    p = problem()
    base = sgd(p.model, lr=0.0)
    opt = build(name, base)
    before = p.weights()
    p.run(opt, 3)
    assert torch.equal(p.weights(), before)


@EVERY
def test_parameters_without_gradient_are_left_alone(name: str) -> None:
    p = problem()
    unused = nn.Parameter(torch.ones(4, dtype=torch.float64))
    named = [*p.model.named_parameters(), ("unused.weight", unused)]
    opt = build(name, torch.optim.SGD(named, lr=0.1, weight_decay=0.1, momentum=0.9))
    p.run(opt, 3)
    assert torch.equal(unused, torch.ones(4, dtype=torch.float64))


@EVERY
def test_a_parameter_unused_in_the_second_pass_is_restored(name: str) -> None:
    p = problem()
    gate = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))
    named = [*p.model.named_parameters(), ("gate.weight", gate)]
    opt = build(name, torch.optim.SGD(named, lr=0.0, momentum=0.9))
    x, y = p.batches[0]
    calls = 0

    def losses() -> Tensor:
        nonlocal calls
        calls += 1
        logits = p.model(x)
        return nn.functional.cross_entropy(logits * gate if calls == 1 else logits, y, reduction="none")

    closure = BatchLoss(opt, losses)
    opt.step(closure)
    assert gate.item() == 0.3


@EVERY
def test_learning_rate_schedulers_attach(name: str) -> None:
    p = problem()
    opt = wrap(name, p.model)
    schedule = torch.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.5)
    p.run(opt, 1)
    schedule.step()
    assert opt.base.param_groups[0]["lr"] == pytest.approx(0.05)
    assert opt.param_groups is opt.base.param_groups


@EVERY
def test_parameter_groups_keep_their_own_learning_rates(name: str) -> None:
    p = problem()
    named = list(p.model.named_parameters())
    base = torch.optim.SGD(
        [{"params": named[:2], "lr": 0.1}, {"params": named[2:], "lr": 0.0}], lr=1.0, momentum=0.9
    )
    opt = build(name, base)
    before = [v.detach().clone() for _, v in named]
    p.run(opt, 2)
    assert not torch.equal(named[0][1], before[0])
    assert torch.equal(named[2][1], before[2])


@EVERY
def test_runs_are_repeatable(name: str) -> None:
    a, b = problem(), problem()
    assert a.run(wrap(name, a.model), 4) == b.run(wrap(name, b.model), 4)
    assert torch.equal(a.weights(), b.weights())


# ESAM and Fisher masks choose among the examples of each part, by design.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("esam", "ssam_f")])
def test_micro_batches_equal_the_whole_batch(name: str) -> None:
    whole, parts = problem(), problem()
    opt, split = wrap(name, whole.model), wrap(name, parts.model)
    for i in range(3):
        opt.step(whole.closure(opt, i))
        x, y = parts.batches[i]
        closures = []
        for xs, ys in zip(x.split(4), y.split(4), strict=True):

            def losses(xs: Tensor = xs, ys: Tensor = ys) -> Tensor:
                return nn.functional.cross_entropy(parts.model(xs), ys, reduction="none")

            closures.append(BatchLoss(split, losses))
        split.step(closures)
    # l1 and the like choose by comparison, so only round-off separates the two
    torch.testing.assert_close(whole.weights(), parts.weights(), rtol=0, atol=1e-9)
    assert opt.gradient_evaluations == split.gradient_evaluations


@EVERY
def test_zero_grad_that_keeps_tensors_is_no_trap(name: str) -> None:
    a, b = problem(), problem()
    opt, other = wrap(name, a.model), wrap(name, b.model)
    a.run(opt, 3)
    for i in range(3):
        x, y = b.batches[i]

        closure = KeepingTensors(
            other, lambda x=x, y=y: nn.functional.cross_entropy(b.model(x), y, reduction="none")
        )
        other.step(closure)
    assert torch.equal(a.weights(), b.weights())


@EVERY
def test_half_precision_weights_are_refused(name: str) -> None:
    model = nn.Linear(3, 2).to(torch.bfloat16)
    with pytest.raises(InvalidInput, match="float32 or float64"):
        build(name, torch.optim.SGD(model.named_parameters(), lr=0.1))


@PERTURBING
def test_bad_values_are_named(name: str) -> None:
    model = nn.Linear(3, 2)
    base = torch.optim.SGD(model.named_parameters(), lr=0.1)
    with pytest.raises(InvalidInput, match=rf"{name}: rho must be a number .*got -0\.1"):
        build(name, base, rho=-0.1)
    with pytest.raises(InvalidInput, match="rho must be a number .*nan"):
        build(name, base, rho=float("nan"))
    with pytest.raises(InvalidInput, match=r"unknown parameter of .* 'rhoo'; did you mean 'rho'\?"):
        build(name, base, rhoo=0.1)


@pytest.mark.parametrize("name", [n for n, e in OPTIMIZERS.items() if e.needs_examples])
def test_plain_closures_are_refused_where_examples_are_needed(name: str) -> None:
    p = problem()
    opt = wrap(name, p.model)
    with pytest.raises(InvalidInput, match="needs the loss of each example"):
        opt.step(lambda: p.closure(opt, 0)())


def test_momentum_sam_comes_back_when_the_closure_raises() -> None:
    p = problem(batchnorm=True)
    opt = wrap("msam", p.model)
    p.run(opt, 2)
    inner = p.closure(opt, 0)
    before = p.weights()
    seen: list[Tensor] = []

    def closure() -> Tensor:
        inner()
        seen.append(p.weights())
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        opt.step(closure)
    assert (seen[0] - before).norm().item() == pytest.approx(0.3)
    assert torch.equal(p.weights(), before)


def test_momentum_sam_needs_momentum() -> None:
    p = problem()
    with pytest.raises(InvalidInput, match="momentum of the base must be > 0"):
        build("msam", sgd(p.model, momentum=0.0))


def test_unknown_optimizer_names_the_nearest() -> None:
    base = torch.optim.SGD(nn.Linear(3, 2).named_parameters(), lr=0.1)
    with pytest.raises(InvalidInput, match="unknown optimizer 'infosm'; did you mean 'infosam'"):
        build("infosm", base)


def test_a_step_without_closure_says_what_is_missing() -> None:
    p = problem()
    with pytest.raises(InvalidInput, match="needs a closure"):
        wrap("sam", p.model).step()


def test_state_dict_of_something_else_is_refused() -> None:
    p = problem()
    opt = wrap("sam", p.model)
    with pytest.raises(InvalidInput, match="plain optimizer"):
        opt.load_state_dict(opt.base.state_dict())
    with pytest.raises(InvalidInput, match="another method"):
        opt.load_state_dict(wrap("vasso", p.model).state_dict())


def test_every_entry_has_a_summary_and_defaults() -> None:
    for entry in OPTIMIZERS.values():
        assert entry.summary
        assert "base" not in entry.parameters
        assert "model" not in entry.parameters
