"""Rules restated in NumPy at parameters the reference trajectories do not cover, and traps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim_problem import build, problem, sgd, wrap
from torch import nn

from sharpbench.errors import InvalidInput
from sharpbench.functionals import Gaussian
from sharpbench.optim import AESAM, SharpnessAware, UniversalSAM

Array = np.ndarray
Gradient = Callable[[Array], Array]
# A rule takes (g at a point, x, the step, its memory) to the handed gradient.
Rule = Callable[[Gradient, Array, int, dict[str, Any]], Array]
LR, MOMENTUM, DECAY, STEPS = 0.1, 0.9, 5e-4, 8


def unit(v: Array) -> Array:
    norm = np.linalg.norm(v)
    return v / norm if norm > 0 else v


def looking(ascent: Callable[[Array, Array, dict[str, Any]], Array]) -> Rule:
    """SAM's descent at the point that ``ascent`` chooses."""
    return lambda grad, x, t, memory: grad(x + ascent(x, grad(x), memory))


def info(rho: float, alpha: float, floor: float, relative: bool, literal: bool, keep: float = 1.0) -> Rule:
    def ascent(x: Array, g: Array, memory: dict[str, Any]) -> Array:
        mask = np.zeros_like(g)
        mask[np.argsort(-np.abs(g), kind="stable")[: round(keep * g.size)]] = 1.0
        old = alpha if literal else 1.0 - alpha
        mean = old * memory["m"] + (1.0 - old) * g if "m" in memory else g.copy()
        memory["m"] = mean
        variance = (mean - g) ** 2
        added = floor * variance.mean() if relative else floor
        return rho * unit(mask * g / (variance + added) if variance.any() else mask * g)

    return looking(ascent)


def vasso(x: Array, g: Array, memory: dict[str, Any]) -> Array:
    memory["d"] = 0.6 * memory["d"] + 0.4 * g if "d" in memory else g
    return 0.05 * memory["d"] / (np.linalg.norm(memory["d"]) + 1e-7)


def friendly(x: Array, g: Array, memory: dict[str, Any]) -> Array:
    known = memory.get("m")
    memory["m"] = g if known is None else 0.6 * known + 0.4 * g
    return 0.1 * unit(g if known is None else g - 0.5 * known)


def gsam(grad: Gradient, x: Array, t: int, memory: dict[str, Any]) -> Array:
    g = grad(x)
    p = grad(x + 0.1 * unit(g))
    return p - 0.1 * (g - (g @ p) / (p @ p) * p)


def coupled(grad: Gradient, x: Array, t: int, memory: dict[str, Any]) -> Array:
    g = grad(x)
    return 4.0 * grad(x + 0.1 * unit(g)) - 3.0 * g


def looksam(grad: Gradient, x: Array, t: int, memory: dict[str, Any]) -> Array:
    g = grad(x)
    if t % 3 == 0:
        p = grad(x + 0.05 * unit(g))
        memory["v"] = p - (g @ p) / (g @ g) * g
        return p
    return g + 0.3 * np.linalg.norm(g) / (np.linalg.norm(memory["v"]) + 1e-8) * memory["v"]


def crsam(grad: Gradient, x: Array, t: int, memory: dict[str, Any]) -> Array:
    g = grad(x)
    e = 0.05 * unit(g)
    worst, best = grad(x + e), grad(x - e)
    return worst + 0.5 * (worst + best - 2 * g) + 0.2 * (worst - best)


def top(x: Array, g: Array, memory: dict[str, Any]) -> Array:
    kept = np.argsort(-np.abs(g), kind="stable")[: round(0.05 * g.size)]
    return 0.1 * unit(np.where(np.isin(np.arange(g.size), kept), g, 0.0))


def stretched(x: Array, g: Array, memory: dict[str, Any]) -> Array:
    t = np.abs(x) + 0.1
    return 0.8 * t**2 * g / np.linalg.norm(t * g)


RULES: dict[str, tuple[str, dict[str, Any], Rule]] = {
    "asam-all": ("asam", {"rho": 0.8, "eta": 0.1, "rescale": "all"}, looking(stretched)),
    "fishersam": (
        "fishersam",
        {"rho": 0.05, "eta": 7.0},
        looking(lambda x, g, m: 0.05 * g / (1 + 7 * g * g) / np.sqrt((g * g / (1 + 7 * g * g)).sum())),
    ),
    "linf-ball": (
        "linf",
        {"rho": 0.002, "radius": "ball"},
        looking(lambda x, g, m: 0.002 * np.sign(g)),
    ),
    "nsupport-fraction": ("nsupport", {"rho": 0.1, "n": 0.05}, looking(top)),
    "vasso": ("vasso", {"rho": 0.05, "theta": 0.4}, looking(vasso)),
    "infosam-literal-absolute": (
        "infosam",
        {"rho": 0.05, "alpha": 0.3, "ema": "literal", "floor": 1e-6, "floor_kind": "absolute"},
        info(0.05, 0.3, 1e-6, relative=False, literal=True),
    ),
    "infosam-absolute": (
        "infosam",
        {"rho": 0.05, "alpha": 0.005, "floor": 1e-8, "floor_kind": "absolute"},
        info(0.05, 0.005, 1e-8, relative=False, literal=False),
    ),
    "infosam-literal": (
        "infosam",
        {"rho": 0.05, "alpha": 0.9, "ema": "literal", "floor": 0.01},
        info(0.05, 0.9, 0.01, relative=True, literal=True),
    ),
    "modified_ssam": (
        "modified_ssam",
        {"rho": 0.2, "sparsity": 0.8, "alpha": 0.3, "floor": 0.5},
        info(0.2, 0.3, 0.5, relative=True, literal=False, keep=0.2),
    ),
    "friendly": ("friendly", {"rho": 0.1, "sigma": 0.5, "lam": 0.6}, looking(friendly)),
    "gsam": ("gsam", {"rho": 0.1, "alpha": 0.1}, gsam),
    "gnp": (
        "gnp",
        {"rho": 0.05, "alpha": 0.3},
        lambda grad, x, t, m: 0.7 * grad(x) + 0.3 * grad(x + 0.05 * unit(grad(x))),
    ),
    "wsam-coupled": ("wsam", {"rho": 0.1, "gamma": 0.8, "decoupled": False}, coupled),
    "looksam": ("looksam", {"rho": 0.05, "alpha": 0.3, "k": 3}, looksam),
    "crsam": ("crsam", {"rho": 0.05, "gamma": 0.5, "beta": 0.2}, crsam),
}


def numpy_gradient(x: Array, inputs: Array, targets: Array) -> Array:
    """Cross-entropy of the 6-12-3 tanh network of ``problem()``, by hand."""
    w1, b1, w2, b2 = np.split(x, np.cumsum([72, 12, 36]))
    hidden = np.tanh(inputs @ w1.reshape(12, 6).T + b1)
    logits = hidden @ w2.reshape(3, 12).T + b2
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    out = (share - np.eye(3)[targets]) / len(targets)
    back = (out @ w2.reshape(3, 12)) * (1 - hidden**2)
    return np.concatenate([(back.T @ inputs).ravel(), back.sum(0), (out.T @ hidden).ravel(), out.sum(0)])


@pytest.mark.parametrize("case", RULES)
def test_rule_restated_in_numpy(case: str) -> None:
    name, parameters, rule = RULES[case]
    p = problem()
    x, velocity, memory = p.weights().numpy(), np.zeros(p.weights().numel()), {}
    p.run(build(name, base(p.model), **parameters), STEPS)
    for t in range(STEPS):
        inputs, targets = (part.numpy() for part in p.batches[t % len(p.batches)])

        def grad(at: Array, inputs: Array = inputs, targets: Array = targets) -> Array:
            return numpy_gradient(at, inputs, targets)

        handed = rule(grad, x, t, memory) + DECAY * x
        velocity = handed if t == 0 else MOMENTUM * velocity + handed
        x = x - LR * velocity
    np.testing.assert_allclose(p.weights().numpy(), x, rtol=0, atol=1e-12)


def base(model: nn.Module) -> torch.optim.Optimizer:
    return sgd(model, lr=LR, momentum=MOMENTUM, weight_decay=DECAY)


def single(opt: SharpnessAware, weight: nn.Parameter, slope: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The closure of the linear loss with this slope."""

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = (weight * slope).sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("delta", [0.6, 0.7, 0.8, 0.95])
def test_aesam_always_looks_at_its_first_step(delta: float) -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    for s in np.random.default_rng(0).random(1000):
        opt = AESAM(torch.optim.SGD([weight], lr=0.1), delta=delta, total_steps=20)
        assert opt.looks([torch.tensor([s], dtype=torch.float64)])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("ssam_f", {"sparsity": 0.0}), ("ssam_d", {"sparsity": 0.0}), ("vasso", {"theta": 1.0})],
)
def test_limits_equal_sam_with_default_parameters(name: str, parameters: dict[str, Any]) -> None:
    found = []
    for rule, own in ((name, parameters), ("sam", {})):
        p = problem()
        p.run(wrap(rule, p.model, rho=0.1, **own), 5)
        found.append(p.weights())
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_the_base_may_have_a_rho_of_its_own() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    opt = build("sam", torch.optim.Adadelta([weight]), rho=0.05)
    (e,) = opt.perturbation([weight], [torch.tensor([3.0, 4.0])])
    assert e.norm().item() == pytest.approx(0.05)


class Counting(nn.Module):
    """Rebinds its buffer where BatchNorm updates in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes = self.passes + 1
        return self.layer(x)


@pytest.mark.parametrize("given", [True, False])
def test_buffers_that_a_module_rebinds_are_restored(given: bool) -> None:
    model = Counting()
    opt = build("sam", sgd(model), model if given else None)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = model(torch.ones(3, 2)).square().mean()
        loss.backward()
        return loss

    opt.step(closure)
    assert model.passes.item() == 1.0


@pytest.mark.parametrize("name", ["sam", "esam"])
def test_fp16_scaling_with_batch_loss(name: str) -> None:
    norms = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**16)):
        p = problem()
        p.run(build(name, sgd(p.model), scaler=scaler, rho=0.1), 1)
        norms.append(torch.cat([q.grad.reshape(-1) for q in p.model.parameters()]).norm().item())
    assert norms[0] == pytest.approx(norms[1])


def test_m_sharpness_counts_partial_second_looks() -> None:
    p = problem()
    opt = wrap("lazy", p.model, p=0.5, m_sharpness=True)
    closure = p.closure(opt, 0)
    calls = 0

    def counted() -> torch.Tensor:
        nonlocal calls
        calls += 1
        return closure()

    for _ in range(50):
        opt.step([counted] * 4)
    assert opt.gradient_evaluations == pytest.approx(calls / 4, abs=1)


def test_decoupled_wsam_forgets_a_failed_step() -> None:
    p, q = problem(), problem()
    opt, twin = (wrap("wsam", r.model, m_sharpness=True) for r in (p, q))

    def fail() -> torch.Tensor:
        raise RuntimeError("out of memory, say")

    with pytest.raises(RuntimeError, match="out of memory"):
        opt.step([p.closure(opt, 0), fail])
    for r, o in ((p, opt), (q, twin)):
        o.step([r.closure(o, 1), r.closure(o, 2)])
    torch.testing.assert_close(p.weights(), q.weights(), rtol=0, atol=1e-14)


def test_memories_find_their_parameter_when_a_layer_was_frozen() -> None:
    p, q = problem(), problem()
    p.model[0].weight.requires_grad_(False)
    first, second = wrap("vasso", p.model), wrap("vasso", q.model)
    p.run(first, 1)
    second.load_state_dict(first.state_dict())
    for parameter, value in second.objective[0].memory["mean"].items():
        assert value.shape == parameter.shape


def test_asam_rescales_a_layer_unfrozen_later() -> None:
    p = problem()
    p.model[0].weight.requires_grad_(False)
    opt = wrap("asam", p.model)
    p.model[0].weight.requires_grad_(True)
    params = opt.parameters()
    assert not torch.equal(opt.constraint.inverse(params, params)[0], torch.ones(12, 6).double())


def test_momentum_sam_leaves_decoupled_weight_decay_out_of_the_gradient() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    slope = torch.tensor([1.0, 2.0], dtype=torch.float64)
    opt = build("msam", torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5))
    for _ in range(2):
        opt.step(single(opt, weight, slope))
    torch.testing.assert_close(weight.grad, slope)


def test_looksam_leaves_parameters_without_gradient_alone() -> None:
    used, idle = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([1.0, 3.0]))
    opt = build("looksam", torch.optim.SGD([used, idle], lr=0.01))
    for loss_of in (lambda: (used**2).sum() * (idle**3).sum(), lambda: (used**2).sum()):
        before = idle.detach().clone()

        def closure(loss_of: Callable[[], torch.Tensor] = loss_of) -> torch.Tensor:
            opt.zero_grad()
            loss = loss_of()
            loss.backward()
            return loss

        opt.step(closure)
    assert torch.equal(idle, before)


def test_optimizers_can_be_copied() -> None:
    assert repr(copy.deepcopy(wrap("sam", problem().model))) == "SAM(rho=0.05, base=SGD)"


def test_ssam_f_refuses_a_plain_closure_before_it_moves() -> None:
    p = problem()
    opt = wrap("ssam_f", p.model)
    inner = p.closure(opt, 0)
    before = p.weights()
    with pytest.raises(InvalidInput, match="loss of each example"):
        opt.step(lambda: inner())
    assert torch.equal(p.weights(), before)


def test_gsam_radius_stays_within_its_range() -> None:
    p = problem()
    opt = wrap("gsam", p.model, rho=0.1, rho_min=0.01, lr_max=0.1, lr_min=0.05)
    opt.param_groups[0]["lr"] = 0.0
    assert opt.radius() == pytest.approx(0.01)


def test_a_groups_own_rho_means_the_same_as_the_optimizers() -> None:
    lengths = []
    for group, parameters in (({"rho": 1.0}, {}), ({}, {"rho": 1.0})):
        weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        opt = build(
            "esam", torch.optim.SGD([{"params": [weight], **group}], lr=0.1), beta=0.999999, **parameters
        )
        opt.beta = 0.5  # after the construction, so that no coin leaves the only tensor out
        (e,) = opt.perturbation([weight], [torch.tensor([3.0, 4.0])])
        lengths.append(e.norm().item())
    assert lengths[0] == pytest.approx(lengths[1])


def test_a_vector_psi_of_the_wrong_shape_is_refused_or_understood() -> None:
    class Stacked:
        mu = Gaussian()

        @staticmethod
        def psi(t: torch.Tensor) -> torch.Tensor:
            return torch.stack([t, t**2])

        @staticmethod
        def phi(mean: torch.Tensor) -> torch.Tensor:
            return 2 * (mean[1] - mean[0] ** 2)

    class Listed(Stacked):
        @staticmethod
        def psi(t: torch.Tensor) -> list[torch.Tensor]:
            return [t, t**2]

    found = []
    for measure in (Stacked(), Listed()):
        p = problem()
        p.run(UniversalSAM(sgd(p.model), measure, rho=0.05, n_samples=2, weight=0.1, seed=1), 1)
        found.append(p.weights())
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_the_loss_of_a_skipped_step_is_the_loss_at_x() -> None:
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    opt = build("sam", torch.optim.SGD([weight], lr=0.1), scaler=scaler, rho=1.0)
    passes = 0

    def closure() -> torch.Tensor:
        nonlocal passes
        opt.zero_grad()
        loss = (weight**2).sum()
        scaler.scale(loss).backward()
        passes += 1
        if passes == 2:
            weight.grad.fill_(float("inf"))
        return loss

    assert opt.step(closure).item() == 1.0


@pytest.mark.parametrize("name", ["lazy", "esam", "trace_sam", "ssam_d"])
def test_a_bad_seed_is_bad_input(name: str) -> None:
    with pytest.raises(InvalidInput, match="seed"):
        wrap(name, problem().model, seed="a")
