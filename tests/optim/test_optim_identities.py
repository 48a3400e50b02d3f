"""Identities that tie the variants together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_problem import NAMES, build, problem, sgd, wrap
from torch import Tensor, nn

from sharpbench.errors import InvalidInput
from sharpbench.functionals import FROBENIUS, LOG_DET, TRACE, sample_weights, scale_invariant
from sharpbench.optim import (
    ElementwiseScale,
    GradientEMA,
    InverseVariance,
    PreSAM,
    TopMagnitude,
    UniversalSAM,
)


def trajectory(name: str, steps: int = 6, **parameters: Any) -> Tensor:
    p = problem()
    p.run(wrap(name, p.model, **parameters), steps)
    return p.weights()


SIZE = problem().weights().numel()


@pytest.mark.parametrize(
    ("name", "parameters", "tolerance"),
    [
        ("vasso", {"theta": 1.0}, 0.0),
        ("ssam_f", {"sparsity": 0.0}, 0.0),
        ("ssam_d", {"sparsity": 0.0}, 0.0),
        ("presam", {}, 0.0),
        ("fishersam", {"eta": 0.0}, 1e-14),
        ("fishersam", {"eta": 1e-12}, 1e-12),
        ("infosam", {"floor": 1e14}, 1e-12),
        ("infosam", {"floor": 1e14, "floor_kind": "absolute"}, 1e-12),
        ("nsupport", {"n": SIZE}, 1e-14),
        ("gsam", {"alpha": 0.0}, 1e-14),
        ("gnp", {"alpha": 1.0}, 1e-14),
        ("wsam", {"gamma": 0.5, "decoupled": False}, 1e-14),
        ("lazy", {"p": 1.0}, 0.0),
        ("lazy", {"policy": lambda step: True}, 0.0),
        ("looksam", {"k": 1}, 0.0),
        ("crsam", {"gamma": 0.0, "beta": 0.0}, 1e-14),
        ("friendly", {"sigma": 0.0}, 0.0),
        ("modified_ssam", {"sparsity": 0.0, "floor": 1e14}, 1e-12),
    ],
)
def test_limits_equal_sam(name: str, parameters: dict[str, Any], tolerance: float) -> None:
    ours = trajectory(name, rho=0.1, **parameters)
    torch.testing.assert_close(ours, trajectory("sam", rho=0.1), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        "sam",
        "asam",
        "fishersam",
        "linf",
        "l1",
        "nsupport",
        "vasso",
        "infosam",
        "friendly",
        "modified_ssam",
        "lazy",
        "aesam",
        "looksam",
        "msam",
    ],
)
def test_rho_zero_is_the_base(name: str) -> None:
    assert torch.equal(trajectory(name, rho=0.0), trajectory("sgd"))


@pytest.mark.parametrize("name", ["gsam", "gnp", "wsam", "crsam"])
def test_rho_zero_is_the_base_up_to_round_off(name: str) -> None:
    torch.testing.assert_close(trajectory(name, rho=0.0), trajectory("sgd"), rtol=0, atol=1e-13)


def test_gsam_radius_follows_the_learning_rate() -> None:
    p = problem()
    opt = wrap("gsam", p.model, rho=0.2, rho_min=0.1, lr_max=0.1, lr_min=0.0)
    assert opt.radius() == pytest.approx(0.2)
    opt.param_groups[0]["lr"] = 0.05
    assert opt.radius() == pytest.approx(0.15)


def test_decoupled_wsam_equals_coupled_without_momentum() -> None:
    """x - lr g - lr c (g_p - g) is the coupled step when the base is plain SGD."""
    found = []
    for decoupled in (True, False):
        p = problem()
        opt = build("wsam", torch.optim.SGD(p.model.named_parameters(), lr=0.1), decoupled=decoupled)
        p.run(opt, 5)
        found.append(p.weights())
    torch.testing.assert_close(*found, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["trace_sam", "det_sam", "frob_sam"])
def test_weight_zero_is_the_base(name: str) -> None:
    torch.testing.assert_close(trajectory(name, weight=0.0), trajectory("sgd"), rtol=0, atol=1e-14)


def test_l1_is_nsupport_of_one() -> None:
    assert torch.equal(trajectory("l1", rho=0.1), trajectory("nsupport", rho=0.1, n=1))


def test_trace_sam_with_one_sample_is_random_weight_perturbation() -> None:
    p = problem()
    opt = wrap("trace_sam", p.model, seed=7)
    x0 = p.weights()
    u = torch.cat(
        [
            t.reshape(-1)
            for t in opt.measure.mu.sample(list(p.model.parameters()), torch.Generator().manual_seed(7))
        ]
    )
    twin = problem()
    nn.utils.vector_to_parameters(x0 + 0.01 * u, twin.model.parameters())
    x, y = twin.batches[0]
    nn.functional.cross_entropy(twin.model(x), y).backward()
    expected = torch.cat([q.grad.reshape(-1) for q in twin.model.parameters()])
    opt.step(p.closure(opt, 0))
    handed = torch.cat([q.grad.reshape(-1) for q in p.model.parameters()])
    torch.testing.assert_close(handed, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sam", {}),
        ("vasso", {"epsilon": 0.0}),
        ("infosam", {}),
        ("infosam", {"ema": "literal"}),
        ("l1", {}),
        ("linf", {}),
        ("linf", {"radius": "ball"}),
        ("nsupport", {"n": 5}),
    ],
)
@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-4, 1e4))
def test_the_perturbation_ignores_the_scale_of_the_loss(
    name: str, parameters: dict[str, Any], scale: float
) -> None:
    torch.testing.assert_close(*two_perturbations(name, parameters, scale), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters"), [("fishersam", {}), ("infosam", {"floor": 1e-3, "floor_kind": "absolute"})]
)
def test_fisher_and_absolute_floors_do_not(name: str, parameters: dict[str, Any]) -> None:
    plain, scaled = two_perturbations(name, parameters, 100.0)
    assert (plain - scaled).norm() > 1e-3 * plain.norm()


def two_perturbations(name: str, parameters: dict[str, Any], scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(3)]
    results = []
    for factor in (1.0, scale):
        weight = nn.Parameter(torch.ones(7, 5, dtype=torch.float64))
        opt = build(name, torch.optim.SGD([("weight", weight)], lr=0.1), rho=0.1, **parameters)
        for g in gradients:
            e = opt.perturbation([weight], [g * factor])
        results.append(e[0])
    return results[0], results[1]


@settings(max_examples=30, deadline=None)
@given(
    rho=st.floats(1e-3, 10.0),
    seed=st.integers(0, 2**16),
    chain=st.lists(st.sampled_from(["top", "ema", "variance"]), max_size=3),
    adaptive=st.booleans(),
)
def test_any_composition_lies_on_its_ball(rho: float, seed: int, chain: list[str], adaptive: bool) -> None:
    """||D e|| = rho for every chain of objective preconditioners and either constraint."""
    parts = {
        "top": lambda: TopMagnitude(4),
        "ema": lambda: GradientEMA(0.3),
        "variance": lambda: InverseVariance(0.1),
    }
    generator = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randn(20, generator=generator, dtype=torch.float64))
    opt = PreSAM(
        torch.optim.SGD([("weight", weight)], lr=0.1),
        rho=rho,
        objective=[parts[c]() for c in chain],
        constraint=ElementwiseScale(0.01, "all") if adaptive else None,
    )
    for _ in range(3):
        (e,) = opt.perturbation([weight], [torch.randn(20, generator=generator, dtype=torch.float64)])
    scale = weight.detach().abs() + 0.01 if adaptive else torch.ones(20, dtype=torch.float64)
    assert (e / scale).norm().item() == pytest.approx(rho, rel=1e-12)


def test_asam_is_invariant_to_rescaling_relu_layers() -> None:
    """With eta = 0 and rescale="all", e of the rescaled network is the rescaled e."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 6).double(), torch.randint(0, 3, (16,))
    first, second = torch.randn(8, 6).double(), torch.randn(3, 8).double()
    found = []
    for c in (1.0, 10.0):
        w1, w2 = nn.Parameter(first * c), nn.Parameter(second / c)
        opt = build("asam", torch.optim.SGD([w1, w2], lr=0.1), rho=0.1, eta=0.0, rescale="all")
        loss = nn.functional.cross_entropy(torch.relu(x @ w1.T) @ w2.T, y)
        gradients = torch.autograd.grad(loss, (w1, w2))
        e1, e2 = opt.perturbation([w1, w2], gradients)
        found.append((e1 / c, e2 * c))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def test_top_magnitude_breaks_ties_towards_the_first() -> None:
    g = torch.tensor([1.0, -2.0, 2.0, 2.0, 0.5])
    assert TopMagnitude(1).apply([g], [g], [g])[0].tolist() == [0.0, -2.0, 0.0, 0.0, 0.0]
    assert TopMagnitude(2).apply([g], [g], [g])[0].tolist() == [0.0, -2.0, 2.0, 0.0, 0.0]
    assert TopMagnitude(0.4).apply([g], [g], [g])[0].count_nonzero() == 2


def test_antithetic_frobenius_is_the_exact_gradient_of_its_own_estimate() -> None:
    """The handed gradient equals g + weight rho^2 dR/dx, by central differences of R at fixed draws."""
    torch.manual_seed(0)
    a = torch.randn(4, 4).double()
    w0 = torch.randn(4).double()

    def loss_at(w: Tensor) -> Tensor:
        return (w @ a @ a.T @ w) / 2 + (w**4).sum() / 4 + w.sum()

    rho, weight, n = 0.3, 0.7, 5
    draws = [torch.randn(4).double() for _ in range(n)]

    class Fixed:
        def __init__(self) -> None:
            self.next = iter(draws)

        def sample(self, params: Any, generator: Any = None) -> list[Tensor]:
            return [next(self.next)]

    def regularised(w: Tensor) -> float:
        delta = torch.stack(
            [(loss_at(w + rho * u) + loss_at(w - rho * u) - 2 * loss_at(w)) / (2 * rho**2) for u in draws]
        )
        return (loss_at(w) + weight * rho**2 * FROBENIUS.estimate(delta)).item()

    w = nn.Parameter(w0.clone())
    measure = type("M", (), {"psi": FROBENIUS.psi, "phi": FROBENIUS.phi, "mu": Fixed()})()
    measure.estimator = FROBENIUS.estimator
    opt = UniversalSAM(
        torch.optim.SGD([w], lr=0.0), measure, rho=rho, weight=weight, n_samples=n, sampling="antithetic"
    )

    def closure() -> Tensor:
        opt.zero_grad()
        loss = loss_at(w)
        loss.backward()
        return loss

    opt.step(closure)
    step = 1e-5
    numeric = [
        (regularised(w0 + step * d) - regularised(w0 - step * d)) / (2 * step) for d in torch.eye(4).double()
    ]
    np.testing.assert_allclose(w.grad, numeric, rtol=1e-7)


def test_antithetic_frobenius_on_a_quadratic_ignores_the_gradient() -> None:
    """Delta of an antithetic pair is u^T H u / 2 exactly, whatever the gradient."""
    torch.manual_seed(1)
    h = torch.randn(5, 5).double()
    h = h + h.T
    slope = 100 * torch.randn(5).double()
    w = nn.Parameter(torch.randn(5).double())
    seen: list[Tensor] = []

    class Spy:
        psi, phi, mu = staticmethod(FROBENIUS.psi), staticmethod(FROBENIUS.phi), FROBENIUS.mu

        @staticmethod
        def estimator(samples: Tensor) -> Tensor:
            seen.append(samples.detach())
            return FROBENIUS.estimate(samples)

    opt = UniversalSAM(
        torch.optim.SGD([w], lr=0.0), Spy(), rho=0.5, n_samples=4000, sampling="antithetic", seed=2
    )

    def closure() -> Tensor:
        opt.zero_grad()
        loss = w @ h @ w / 2 + slope @ w
        loss.backward()
        return loss

    opt.step(closure)
    estimate = 2 * seen[0].var().item()
    assert estimate == pytest.approx(h.square().sum().item(), rel=0.1)


def test_sample_weights_are_the_derivative_of_the_estimate() -> None:
    samples = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    for measure in (TRACE, FROBENIUS):
        weights = sample_weights(measure, samples)
        for i in range(3):
            step = torch.zeros(3, dtype=torch.float64)
            step[i] = 1e-6
            slope = (measure.estimate(samples + step) - measure.estimate(samples - step)) / 2e-6
            assert weights[i].item() == pytest.approx(slope.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("tables", "objects"),
    [
        (
            {
                "objective": {"name": "inverse_variance", "alpha": 0.1},
                "constraint": {"name": "elementwise_scale"},
            },
            {"objective": InverseVariance(0.1), "constraint": ElementwiseScale()},
        ),
        (
            {"objective": [{"name": "top_magnitude", "n": 9}, {"name": "gradient_ema", "theta": 0.3}]},
            {"objective": [TopMagnitude(9), GradientEMA(0.3)]},
        ),
        ({}, {}),
    ],
)
def test_compositions_by_name_are_compositions_of_objects(
    tables: dict[str, Any], objects: dict[str, Any]
) -> None:
    p, q = problem(), problem()
    p.run(wrap("presam", p.model, rho=0.1, **tables), 4)
    q.run(PreSAM(sgd(q.model), rho=0.1, **objects), 4)
    assert torch.equal(p.weights(), q.weights())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"objective": {"name": "inverse_varianc"}},
            "'inverse_varianc'; did you mean 'inverse_v",
        ),
        ({"objective": [{"name": "top_magnitude", "m": 3}]}, "unknown parameter of 'top_magnitude' 'm'"),
        ({"objective": {"name": "gradient_ema", "theta": 2.0}}, "gradient_ema: theta must be"),
        ({"objective": "sam"}, "objective must be"),
        ({"constraint": {"eta": 1.0}}, "constraint must be a preconditioner, or a table"),
    ],
)
def test_bad_compositions_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        wrap("presam", problem().model, **parameters)


def test_infosam_first_step_is_sam() -> None:
    torch.testing.assert_close(
        trajectory("infosam", steps=1, rho=0.1), trajectory("sam", steps=1, rho=0.1), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("name", NAMES)
def test_m_sharpness_with_one_part_is_the_rule_itself(name: str) -> None:
    whole, parts = problem(), problem()
    opt, other = wrap(name, whole.model), wrap(name, parts.model, m_sharpness=True)
    for i in range(5):
        opt.step(whole.closure(opt, i))
        other.step([parts.closure(other, i)])
    assert torch.equal(whole.weights(), parts.weights())
    assert opt.gradient_evaluations == other.gradient_evaluations


@pytest.mark.parametrize("measure", [TRACE, FROBENIUS, LOG_DET], ids=lambda m: m.name)
@settings(max_examples=10, deadline=None)
@given(scale=st.floats(0.05, 20.0))
def test_scale_invariant_laws_follow_a_rescaling_of_relu_layers(measure: Any, scale: float) -> None:
    """u = x * z: the perturbed losses, and so any (phi, psi, mu)-sharpness, ignore x -> D x (Theorem 4)."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 6).double(), torch.randint(0, 3, (16,))
    first, second = torch.randn(8, 6).double(), torch.randn(3, 8).double()
    invariant = scale_invariant(measure)
    found = []
    for c in (1.0, scale):
        w1, w2 = first * c, second / c
        deltas = []
        for seed in range(4):
            u1, u2 = invariant.mu.sample([w1, w2], torch.Generator().manual_seed(seed))
            there = nn.functional.cross_entropy(torch.relu(x @ (w1 + 0.1 * u1).T) @ (w2 + 0.1 * u2).T, y)
            deltas.append((there - nn.functional.cross_entropy(torch.relu(x @ w1.T) @ w2.T, y)) / 0.01)
        found.append(invariant.estimate(torch.stack(deltas)))
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-9)


def test_m_sharpness_averages_the_rule_over_parts() -> None:
    """Per-part SAM, gradients averaged, by hand."""
    p = problem()
    opt = wrap("sam", p.model, rho=0.1, m_sharpness=True)
    x, y = p.batches[0]
    params = list(p.model.parameters())
    expected = [torch.zeros_like(q) for q in params]
    for xs, ys in zip(x.split(4), y.split(4), strict=True):
        g = torch.autograd.grad(nn.functional.cross_entropy(p.model(xs), ys), params)
        norm = torch.cat([t.reshape(-1) for t in g]).norm()
        saved = [q.detach().clone() for q in params]
        with torch.no_grad():
            for q, t in zip(params, g, strict=True):
                q.add_(t * (0.1 / norm))
        there = torch.autograd.grad(nn.functional.cross_entropy(p.model(xs), ys), params)
        with torch.no_grad():
            for q, s in zip(params, saved, strict=True):
                q.copy_(s)
        expected = [e + t / 4 for e, t in zip(expected, there, strict=True)]
    closures = []
    for xs, ys in zip(x.split(4), y.split(4), strict=True):

        def closure(xs: Tensor = xs, ys: Tensor = ys) -> Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(p.model(xs), ys)
            loss.backward()
            return loss

        closures.append(closure)
    opt.step(closures)
    for q, e in zip(params, expected, strict=True):
        torch.testing.assert_close(q.grad, e, rtol=0, atol=1e-14)
    assert opt.gradient_evaluations == 2
