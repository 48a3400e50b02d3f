"""Automatic radius, diagnostics, fp16 scaling."""

from __future__ import annotations

import io
import math

import pytest
import torch
from optim_problem import NAMES, build, problem, sgd, wrap
from torch import Tensor, nn

from sharpbench.errors import InvalidInput
from sharpbench.optim import ElementwiseScale, InverseVariance, PreSAM


@pytest.mark.parametrize("name", ["asam", "fishersam"])
def test_automatic_radius_keeps_the_perturbation_within_the_reference(name: str) -> None:
    p = problem()
    opt = wrap(name, p.model, rho="auto", diagnostics=True)
    lengths = []
    for i in range(5):
        p.run(opt, 1, start=i)
        lengths.append(opt.diagnostics()["perturbation_norm"])
    assert all(0 < length <= 0.05 * (1 + 1e-12) for length in lengths)


def test_automatic_radius_divides_by_the_largest_stretch_seen() -> None:
    weight = nn.Parameter(torch.tensor([3.0, -1.0], dtype=torch.float64))
    opt = PreSAM(
        torch.optim.SGD([("weight", weight)], lr=0.1), rho="auto", constraint=ElementwiseScale(0.0, "all")
    )
    g = torch.tensor([1.0, 1.0], dtype=torch.float64)
    (e,) = opt.perturbation([weight], [g])
    assert (e / weight.detach().abs()).norm().item() == pytest.approx(0.05 / 3.0)
    with torch.no_grad():
        weight.mul_(0.1)  # the maximum is a running one
    (e,) = opt.perturbation([weight], [g])
    assert (e / weight.detach().abs()).norm().item() == pytest.approx(0.05 / 3.0)


def test_automatic_radius_without_a_constraint_is_sams_default() -> None:
    p, q = problem(), problem()
    p.run(PreSAM(sgd(p.model), rho="auto", objective=InverseVariance()), 4)
    q.run(PreSAM(sgd(q.model), rho=0.05, objective=InverseVariance()), 4)
    assert torch.equal(p.weights(), q.weights())
    with pytest.raises(InvalidInput, match="rho must be a number >= 0 or 'auto'"):
        PreSAM(sgd(p.model), rho="automatic")


def test_diagnostics_say_what_the_step_did() -> None:
    p = problem()
    opt = wrap("sam", p.model, rho=0.2, diagnostics=True)
    p.run(opt, 4)
    found = opt.diagnostics()
    assert found["perturbation_norm"] == pytest.approx(0.2)
    assert found["ascent_cosine"] == pytest.approx(1.0)
    assert found["second_looks"] == 1.0
    assert 1.0 <= found["participation_ratio"] <= p.weights().numel()
    assert opt.diagnostics() == {}


def test_participation_ratio_counts_the_weights_that_share_the_perturbation() -> None:
    p = problem()
    opt = wrap("linf", p.model, diagnostics=True)
    p.run(opt, 1)
    assert opt.diagnostics()["participation_ratio"] == pytest.approx(p.weights().numel())
    q = problem()
    one = wrap("l1", q.model, diagnostics=True)
    q.run(one, 1)
    assert one.diagnostics()["participation_ratio"] == pytest.approx(1.0)


def test_share_of_second_looks() -> None:
    p = problem()
    opt = wrap("looksam", p.model, k=4, diagnostics=True)
    p.run(opt, 8)
    assert opt.diagnostics()["second_looks"] == 0.25


def test_gradient_snr_of_known_noise() -> None:
    """Gradients mean + noise: SNR = ||mean||^2 / E||noise||^2 = 4 / 8."""
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    opt = build("sam", torch.optim.SGD([w], lr=0.0), rho=0.0, diagnostics=True)
    mean = torch.full((8,), math.sqrt(0.5), dtype=torch.float64)
    for _ in range(4000):
        noise = torch.randn(8, generator=generator, dtype=torch.float64)

        def closure(noise: Tensor = noise) -> Tensor:
            opt.zero_grad()
            loss = (w * (mean + noise)).sum()
            loss.backward()
            return loss

        opt.step(closure)
    assert opt.diagnostics()["gradient_snr"] == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("esam", "ssam_f")])
def test_fp16_scaling_changes_nothing_in_exact_arithmetic(name: str) -> None:
    """A power-of-two scale is exact in float64: the scaled run equals the plain one bit for bit."""
    plain, scaled = problem(), problem()
    plain_opt = wrap(name, plain.model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
    opt = wrap(name, scaled.model, scaler=scaler)
    for i in range(5):
        plain_opt.step(plain.closure(plain_opt, i))
        opt.step(scaled_closure(scaled, opt, scaler, i))
    assert torch.equal(plain.weights(), scaled.weights())
    assert scaler.get_scale() == 2.0**9  # grew once, after three clean steps


def scaled_closure(p, opt, scaler, i, spoil=None):  # type: ignore[no-untyped-def]
    x, y = p.batches[i % len(p.batches)]

    def closure() -> Tensor:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(p.model(x), y, reduction="none").mean()
        scaler.scale(loss).backward()
        if spoil is not None:
            spoil()
        return loss

    return closure


@pytest.mark.parametrize("when", [1, 2])
@pytest.mark.parametrize("name", ["sam", "vasso", "infosam", "frob_sam", "gsam"])
def test_an_overflow_in_any_pass_skips_the_whole_step(name: str, when: int) -> None:
    p = problem(batchnorm=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    opt = wrap(name, p.model, scaler=scaler)
    opt.step(scaled_closure(p, opt, scaler, 0))
    weights, state = p.weights(), opt.state_dict()["sharpness"]
    calls = 0

    def spoil() -> None:
        nonlocal calls
        calls += 1
        if calls == when:
            next(p.model.parameters()).grad[0] = float("inf")

    opt.step(scaled_closure(p, opt, scaler, 1, spoil))
    assert torch.equal(p.weights(), weights)
    assert scaler.get_scale() == 2.0**7
    after = opt.state_dict()["sharpness"]
    assert after["steps"] == state["steps"]
    for part, saved in state["components"].items():
        for name_, table in saved["memory"].items():
            for i, value in table.items():
                assert torch.equal(value, after["components"][part]["memory"][name_][i])


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sgd", "adamw")])
def test_every_optimizer_has_diagnostics(name: str) -> None:
    p = problem()
    opt = wrap(name, p.model, diagnostics=True)
    p.run(opt, 6)
    found = opt.diagnostics()
    names = {"gradient_norm", "gradient_snr", "second_looks", "perturbation_norm", "participation_ratio"}
    names |= {"ascent_cosine"} if opt.evaluates_at_weights else set()
    names |= {"inverse_constraint_max"} if name in ("asam", "fishersam") else set()
    assert set(found) == names
    assert all(v.ndim == 0 and v.dtype == torch.float64 and not v.requires_grad for v in found.values())
    assert all(math.isfinite(v) and not math.isnan(v) for k, v in found.items() if k != "gradient_snr")
    assert opt.diagnostics() == {}


@pytest.mark.parametrize("name", NAMES)
def test_diagnostics_change_nothing_and_continue_after_a_restart(name: str) -> None:
    plain, logged, first = problem(), problem(), problem()
    plain.run(wrap(name, plain.model), 6)
    opt = wrap(name, logged.model, diagnostics=True)
    logged.run(opt, 6)
    assert torch.equal(plain.weights(), logged.weights())

    half = wrap(name, first.model, diagnostics=True)
    first.run(half, 3)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    other = wrap(name, first.model, diagnostics=True)
    other.load_state_dict(torch.load(file, weights_only=True))
    first.run(other, 3, start=3)
    expected, found = opt.diagnostics(), other.diagnostics()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_diagnostics_can_be_switched() -> None:
    p = problem()
    opt = wrap("sam", p.model)
    p.run(opt, 1)
    assert opt.diagnostics() == {}
    opt.record_diagnostics()
    p.run(opt, 1)
    assert opt.diagnostics()["second_looks"].item() == 1.0
    opt.record_diagnostics(False)
    p.run(opt, 1)
    assert opt.diagnostics() == {}


def test_crsam_reports_its_first_look_only() -> None:
    p = problem()
    opt = wrap("crsam", p.model, rho=0.2, diagnostics=True)
    p.run(opt, 3)
    found = opt.diagnostics()
    assert found["perturbation_norm"].item() == pytest.approx(0.2)
    assert found["ascent_cosine"].item() == pytest.approx(1.0)


def test_step_hooks_and_profilers_see_every_step() -> None:
    p = problem()
    opt = wrap("sam", p.model)
    seen: list[str] = []
    before = opt.register_step_pre_hook(lambda *args: seen.append("before"))
    opt.register_step_post_hook(lambda *args: seen.append("after"))
    p.run(opt, 2)
    assert seen == ["before", "after"] * 2
    before.remove()
    with torch.profiler.profile() as profile:
        p.run(opt, 1)
    assert "Optimizer.step#SAM.step" in {event.key for event in profile.key_averages()}


def test_parameters_frozen_between_steps_stay_where_they_are() -> None:
    p = problem()
    opt = wrap("sam", p.model)
    p.run(opt, 1)
    p.model[0].weight.requires_grad_(False)
    before = p.model[0].weight.clone()
    p.run(opt, 1)
    assert torch.equal(p.model[0].weight, before)
    extra = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt.add_param_group({"params": [("extra", extra)]})
    assert any(q is extra for q in opt.parameters())
