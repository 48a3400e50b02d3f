"""Every rule once more, in plain numpy and float64, with parameters drawn at random.

The references share nothing with the package: a flat vector of weights, hand-written gradients, and SGD
with momentum (Nesterov too), weight decay and two parameter groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim_problem import Problem, problem
from torch import Tensor, nn

from sharpbench.functionals import log_det_measure
from sharpbench.optim import BatchLoss, SharpnessAware, UniversalSAM, build

Array = np.ndarray
Memory = dict[str, Any]
STEPS, SIZE = 7, 123
SHAPES = [(12, 6), (12,), (3, 12), (3,)]
ENDS = np.cumsum([math.prod(shape) for shape in SHAPES])[:-1]
IS_WEIGHT = np.concatenate([np.full(math.prod(s), len(s) == 2) for s in SHAPES])


class World:
    """A mini-batch as a rule sees it: losses and gradients anywhere, the step, its number and its memory."""

    def __init__(self, inputs: Array, targets: Array, t: int, memory: Memory) -> None:
        self.inputs, self.targets, self.t, self.memory = inputs, targets, t, memory

    def forward(self, x: Array) -> tuple[Array, Array]:
        w1, b1, w2, b2 = np.split(x, ENDS)
        hidden = np.tanh(self.inputs @ w1.reshape(12, 6).T + b1)
        return hidden, hidden @ w2.reshape(3, 12).T + b2

    def losses(self, x: Array) -> Array:
        logits = self.forward(x)[1]
        high = logits.max(1)
        norm = high + np.log(np.exp(logits - high[:, None]).sum(1))
        return norm - logits[np.arange(len(logits)), self.targets]

    def loss(self, x: Array) -> float:
        return float(self.losses(x).mean())

    def grad(self, x: Array, weights: Array | None = None) -> Array:
        """Of the mean loss, or of the losses weighted with ``weights``."""
        hidden, logits = self.forward(x)
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        n = len(logits)
        out = (share - np.eye(3)[self.targets]) * (np.full(n, 1 / n) if weights is None else weights)[:, None]
        back = (out @ np.split(x, ENDS)[2].reshape(3, 12)) * (1 - hidden**2)
        return np.concatenate(
            [(back.T @ self.inputs).ravel(), back.sum(0), (out.T @ hidden).ravel(), out.sum(0)]
        )


# A rule: (world, x) -> the handed gradient, and what moves x after the base (per unit of learning rate).
Rule = Callable[[World, Array], Array]


def unit(v: Array) -> Array:
    norm = np.linalg.norm(v)
    return v / norm if norm > 0 else v


def at(ascent: Callable[[World, Array, Array], Array]) -> Rule:
    return lambda w, x: w.grad(x + ascent(w, x, w.grad(x)))


def top(g: Array, count: int) -> Array:
    keep = np.zeros(g.size)
    keep[np.argsort(-np.abs(g), kind="stable")[:count]] = 1.0
    return keep


def number(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def sam(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho = number(rng, 0.01, 1.0)
    return {"rho": rho}, at(lambda w, x, g: rho * unit(g))


def asam(rng: Any, everything: bool) -> tuple[dict[str, Any], Rule]:
    rho, eta = number(rng, 0.05, 2.0), number(rng, 0.0, 0.2)

    def ascent(w: World, x: Array, g: Array) -> Array:
        t = np.where(IS_WEIGHT | everything, np.abs(x) + eta, 1.0)
        return rho * t**2 * g / np.linalg.norm(t * g)

    return {"rho": rho, "eta": eta, "rescale": "all" if everything else "weights"}, at(ascent)


def fisher(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, eta = number(rng, 0.05, 0.5), number(rng, 0.0, 50.0)

    def ascent(w: World, x: Array, g: Array) -> Array:
        f = 1 + eta * g**2
        return rho * (g / f) / math.sqrt((g * g / f).sum())

    return {"rho": rho, "eta": eta}, at(ascent)


def linf(rng: Any, ball: bool) -> tuple[dict[str, Any], Rule]:
    rho = number(rng, 0.001, 0.01) if ball else number(rng, 0.01, 0.3)
    return {"rho": rho, "radius": "ball" if ball else "op"}, at(
        lambda w, x, g: rho * np.sign(g) / (1.0 if ball else math.sqrt(np.count_nonzero(g)))
    )


def nsupport(rng: Any, share: bool) -> tuple[dict[str, Any], Rule]:
    rho, n = number(rng, 0.01, 0.5), number(rng, 0.01, 0.9) if share else int(rng.integers(1, SIZE + 1))
    count = max(1, round(n * SIZE)) if share else n
    return {"rho": rho, "n": n}, at(lambda w, x, g: rho * unit(top(g, count) * g))


def l1(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho = number(rng, 0.01, 0.3)
    return {"rho": rho}, at(lambda w, x, g: rho * unit(top(g, 1) * g))


def vasso(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, theta = number(rng, 0.01, 0.3), number(rng, 0.05, 0.95)

    def ascent(w: World, x: Array, g: Array) -> Array:
        d = w.memory["d"] = (1 - theta) * w.memory["d"] + theta * g if "d" in w.memory else g
        return rho * d / (np.linalg.norm(d) + 1e-7)

    return {"rho": rho, "theta": theta}, at(ascent)


def infosam(rng: Any, literal: bool, relative: bool, masked: bool = False) -> tuple[dict[str, Any], Rule]:
    rho, alpha, sparsity = number(rng, 0.01, 0.3), number(rng, 0.01, 0.99), number(rng, 0.0, 0.95)
    floor = number(rng, 0.01, 1.0) if relative else 10 ** number(rng, -8, -4)

    def ascent(w: World, x: Array, g: Array) -> Array:
        new = 1 - alpha if literal else alpha
        mean = w.memory["m"] = (1 - new) * w.memory["m"] + new * g if "m" in w.memory else g
        variance = (mean - g) ** 2
        v = top(g, max(1, round((1 - sparsity) * SIZE))) * g if masked else g
        if w.t == 0:
            return rho * unit(v)
        return rho * unit(v / (variance + floor * (variance.mean() if relative else 1.0)))

    parameters = {"rho": rho, "alpha": alpha, "floor": floor}
    if masked:
        return {**parameters, "sparsity": sparsity}, at(ascent)
    kinds = {"ema": "literal" if literal else "new", "floor_kind": "relative" if relative else "absolute"}
    return {**parameters, **kinds}, at(ascent)


def friendly(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, sigma, lam = number(rng, 0.01, 0.3), number(rng, -1.0, 2.0), number(rng, 0.0, 1.0)

    def ascent(w: World, x: Array, g: Array) -> Array:
        old = w.memory.get("m")
        w.memory["m"] = g if old is None else lam * old + (1 - lam) * g
        return rho * unit(g if old is None else g - sigma * old)

    return {"rho": rho, "sigma": sigma, "lam": lam}, at(ascent)


def lazy(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, coins = number(rng, 0.05, 0.5), rng.random(STEPS) < 0.5
    return {"rho": rho, "policy": lambda step: bool(coins[step])}, lambda w, x: w.grad(
        x + (rho * unit(w.grad(x)) if coins[w.t] else 0.0)
    )


def aesam(rng: Any) -> tuple[dict[str, Any], Rule]:
    p = {
        "rho": number(rng, 0.05, 0.5),
        "delta": number(rng, 0.1, 0.95),
        "lambda1": number(rng, -1.5, 0.0),
        "lambda2": number(rng, 0.0, 1.5),
        "total_steps": int(rng.integers(4, 12)),
    }

    def rule(w: World, x: Array) -> Array:
        g = w.grad(x)
        s, d = g @ g, p["delta"]
        mean = d * w.memory.get("mean", s) + (1 - d) * s
        variance = d * w.memory.get("variance", 0.0) + (1 - d) * (s - mean) ** 2
        w.memory.update(mean=mean, variance=variance)
        t = min(1.0, w.t / p["total_steps"])
        c = t * p["lambda1"] + (1 - t) * p["lambda2"]
        return w.grad(x + p["rho"] * unit(g)) if w.t == 0 or s >= mean + c * math.sqrt(variance) else g

    return p, rule


def gsam(rng: Any, scheduled: bool) -> tuple[dict[str, Any], Rule]:
    p = {"rho": number(rng, 0.1, 0.5), "alpha": number(rng, 0.0, 1.0)}
    rho = p["rho"]
    if scheduled:
        p |= {"rho_min": 0.02, "lr_max": 0.2, "lr_min": 0.01}
        rho = 0.02 + (p["rho"] - 0.02) * (LR - 0.01) / (0.2 - 0.01)

    def rule(w: World, x: Array) -> Array:
        g = w.grad(x)
        q = w.grad(x + rho * unit(g))
        return q - p["alpha"] * (g - (g @ q) / (q @ q) * q)

    return p, rule


def gnp(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, alpha = number(rng, 0.01, 0.5), number(rng, 0.0, 1.5)
    return {
        "rho": rho,
        "alpha": alpha,
    }, lambda w, x: (1 - alpha) * w.grad(x) + alpha * w.grad(x + rho * unit(w.grad(x)))


def wsam(rng: Any, decoupled: bool) -> tuple[dict[str, Any], Rule]:
    rho, gamma = number(rng, 0.01, 0.3), number(rng, 0.0, 0.95)
    c = gamma / (1 - gamma)

    def rule(w: World, x: Array) -> Array:
        g = w.grad(x)
        q = w.grad(x + rho * unit(g))
        if not decoupled:
            return c * q + (1 - c) * g
        w.memory["after"] = -c * (q - g)
        return g

    return {"rho": rho, "gamma": gamma, "decoupled": decoupled}, rule


def looksam(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, alpha, k = number(rng, 0.01, 0.3), number(rng, 0.0, 1.0), int(rng.integers(1, 5))

    def rule(w: World, x: Array) -> Array:
        g = w.grad(x)
        if w.t % k:
            v = w.memory["v"]
            return g + alpha * np.linalg.norm(g) / (np.linalg.norm(v) + 1e-8) * v
        q = w.grad(x + rho * unit(g))
        w.memory["v"] = q - (g @ q) / (g @ g) * g
        return q

    return {"rho": rho, "alpha": alpha, "k": k}, rule


def crsam(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, gamma, beta = number(rng, 0.01, 0.3), number(rng, -0.5, 0.5), number(rng, -0.5, 0.5)

    def rule(w: World, x: Array) -> Array:
        g = w.grad(x)
        worst, best = w.grad(x + rho * unit(g)), w.grad(x - rho * unit(g))
        return worst + gamma * (worst + best - 2 * g) + beta * (worst - best)

    return {"rho": rho, "gamma": gamma, "beta": beta}, rule


def msam(rng: Any, perturbed: bool) -> tuple[dict[str, Any], Rule]:
    rho = number(rng, 0.05, 0.5)

    def rule(w: World, x: Array) -> Array:
        e = -rho * unit(w.memory["velocity"])
        return w.grad(x + e) + (w.memory["decay"] * e if perturbed else 0.0)

    return {"rho": rho, "decay_at": "perturbed" if perturbed else "weights"}, rule


def esam(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, beta, gamma = number(rng, 0.01, 0.3), number(rng, 0.4, 1.0), number(rng, 0.2, 1.0)
    seed = int(rng.integers(100))
    coin = torch.Generator().manual_seed(seed)

    def rule(w: World, x: Array) -> Array:
        g = w.grad(x)
        kept = (torch.rand(4, generator=coin) < beta).numpy()
        masked = np.concatenate([k * v for k, v in zip(kept, np.split(g, ENDS), strict=True)])
        there = x + rho / beta * masked / (np.linalg.norm(masked) + 1e-7)
        rise = w.losses(there) - w.losses(x)
        count = int(len(rise) * gamma)
        chosen = rise > np.sort(rise)[::-1][count - 1] if gamma < 0.99 and count >= 2 else rise > -np.inf
        chosen = chosen if chosen.any() else ~chosen
        return w.grad(there, chosen / chosen.sum())

    return {"rho": rho, "beta": beta, "gamma": gamma, "seed": seed}, rule


def ssam_f(rng: Any) -> tuple[dict[str, Any], Rule]:
    rho, sparsity = number(rng, 0.05, 0.5), number(rng, 0.1, 0.9)
    every, samples = int(rng.integers(1, 4)), int(rng.integers(1, 17))

    def refresh(w: World, x: Array) -> None:
        if w.t % every == 0:
            f = np.mean([w.grad(x, np.eye(16)[i]) ** 2 for i in range(samples)], axis=0)
            w.memory["mask"] = top(f, max(1, int(SIZE * (1 - sparsity))))

    def rule(w: World, x: Array) -> Array:
        g = w.grad(x)
        w.memory["at_end"] = refresh
        return w.grad(x + rho * w.memory.get("mask", np.zeros(SIZE)) * g / (np.linalg.norm(g) + 1e-7))

    return {"rho": rho, "sparsity": sparsity, "update_every": every, "fisher_samples": samples}, rule


class Draws:
    """The law of u as a list of draws, so that both sides see the same."""

    def __init__(self, draws: Array) -> None:
        self.left = iter(draws)

    def sample(self, params: Any, generator: Any = None) -> list[Tensor]:
        parts = torch.from_numpy(next(self.left)).split([p.numel() for p in params])
        return [part.view_as(p) for part, p in zip(parts, params, strict=True)]


# psi, and the weights w_i = d phi(mean psi) / d Delta_i, of each measure.
PENALTIES: dict[str, Callable[[Array, bool], Array]] = {
    "trace_sam": lambda t, anti: np.full(t.size, 1 / t.size),
    "det_sam": lambda t, anti: np.exp(-t / 2) / t.size / np.exp(-t / 2).mean() ** 3,
    "frob_sam": lambda t, anti: (t - t.mean()) / (t.size - 1) * (4.0 if anti else 1.0),
    "universal": lambda t, anti: 2 * np.exp(-t) / t.size / np.exp(-t).mean(),
}


def sampled(rng: Any, name: str, antithetic: bool) -> tuple[dict[str, Any], Rule]:
    n, rho, weight = int(rng.integers(2, 5)), number(rng, 0.02, 0.3), number(rng, 0.05, 1.0)
    draws = rng.normal(size=(STEPS * n, SIZE))
    if name == "det_sam":  # e^Delta: only its own small cube keeps it from running away
        rho, draws = number(rng, 0.3, 1.5), rng.uniform(-0.01, 0.01, size=draws.shape)

    def rule(w: World, x: Array) -> Array:
        g, base, us = w.grad(x), w.loss(x), draws[w.t * n : (w.t + 1) * n]
        if antithetic:
            delta = np.array([w.loss(x + rho * u) + w.loss(x - rho * u) - 2 * base for u in us]) / 2 / rho**2
            looks = [(w.grad(x + rho * u) + w.grad(x - rho * u)) / 2 for u in us]
        else:
            delta = np.array([w.loss(x + rho * u) - base for u in us]) / rho**2
            looks = [w.grad(x + rho * u) for u in us]
        shares = weight * PENALTIES[name](delta, antithetic)
        return g + sum(share * (look - g) for share, look in zip(shares, looks, strict=True))

    kind = "antithetic" if antithetic else "plain"
    return {"rho": rho, "n_samples": n, "weight": weight, "sampling": kind, "draws": draws}, rule


LR = 0.1
Maker = Callable[[Any], tuple[dict[str, Any], Rule]]
RULES: dict[str, tuple[str, Maker]] = {
    "sgd": ("sgd", lambda rng: ({}, lambda w, x: w.grad(x))),
    "sam": ("sam", sam),
    "asam weights": ("asam", lambda rng: asam(rng, False)),
    "asam all": ("asam", lambda rng: asam(rng, True)),
    "fishersam": ("fishersam", fisher),
    "linf op": ("linf", lambda rng: linf(rng, False)),
    "linf ball": ("linf", lambda rng: linf(rng, True)),
    "l1": ("l1", l1),
    "nsupport count": ("nsupport", lambda rng: nsupport(rng, False)),
    "nsupport share": ("nsupport", lambda rng: nsupport(rng, True)),
    "vasso": ("vasso", vasso),
    "infosam new relative": ("infosam", lambda rng: infosam(rng, False, True)),
    "infosam new absolute": ("infosam", lambda rng: infosam(rng, False, False)),
    "infosam literal relative": ("infosam", lambda rng: infosam(rng, True, True)),
    "infosam literal absolute": ("infosam", lambda rng: infosam(rng, True, False)),
    "modified_ssam": ("modified_ssam", lambda rng: infosam(rng, False, True, masked=True)),
    "friendly": ("friendly", friendly),
    "lazy": ("lazy", lazy),
    "aesam": ("aesam", aesam),
    "gsam": ("gsam", lambda rng: gsam(rng, False)),
    "gsam scheduled": ("gsam", lambda rng: gsam(rng, True)),
    "gnp": ("gnp", gnp),
    "wsam decoupled": ("wsam", lambda rng: wsam(rng, True)),
    "wsam coupled": ("wsam", lambda rng: wsam(rng, False)),
    "looksam": ("looksam", looksam),
    "crsam": ("crsam", crsam),
    "msam perturbed": ("msam", lambda rng: msam(rng, True)),
    "msam weights": ("msam", lambda rng: msam(rng, False)),
    "esam": ("esam", esam),
    "ssam_f": ("ssam_f", ssam_f),
    **{
        f"{name} {'antithetic' if anti else 'plain'}": (
            name,
            lambda rng, name=name, anti=anti: sampled(rng, name, anti),
        )
        for name in PENALTIES
        for anti in (False, True)
    },
}


def made(name: str, base: torch.optim.Optimizer, parameters: dict[str, Any]) -> SharpnessAware:
    draws = parameters.pop("draws", None)
    opt = UniversalSAM(base, log_det_measure(1.0), **parameters) if name == "universal" else None
    opt = opt or build(name, base, **parameters)  # type: ignore[assignment]
    if draws is not None:
        object.__setattr__(opt.measure, "mu", Draws(draws))  # type: ignore[attr-defined]
    return opt  # type: ignore[return-value]


def closures(p: Problem, opt: SharpnessAware, t: int, parts: int) -> list[BatchLoss]:
    x, y = p.batches[t % len(p.batches)]
    return [
        BatchLoss(opt, lambda a=a, b=b: nn.functional.cross_entropy(p.model(a), b, reduction="none"))
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", RULES)
def test_random_parameters_against_numpy(case: str, seed: int) -> None:
    name, maker = RULES[case]
    rng = np.random.default_rng([seed, len(case), *case.encode()])
    parameters, rule = maker(rng)
    momentum = number(rng, 0.1, 0.95)
    nesterov = bool(seed % 2)
    rates = np.repeat([LR, LR * number(rng, 0.3, 1.5)], [84, SIZE - 84])
    decays = np.repeat([number(rng, 0, 0.01), number(rng, 0, 0.01)], [84, SIZE - 84])
    p = problem(seed=seed)
    named = list(p.model.named_parameters())
    groups = [
        {"params": named[:2], "lr": rates[0], "weight_decay": decays[0]},
        {"params": named[2:], "lr": rates[-1], "weight_decay": decays[-1]},
    ]
    x, velocity, memory = p.weights().numpy(), np.zeros(SIZE), {}
    base = torch.optim.SGD(groups, lr=1.0, momentum=momentum, nesterov=nesterov)
    opt = made(name, base, parameters)
    losses = p.run(opt, STEPS)
    for t in range(STEPS):
        memory |= {"velocity": velocity, "decay": decays}
        w = World(*(part.numpy() for part in p.batches[t % len(p.batches)]), t, memory)
        if opt.evaluates_at_weights:
            assert losses[t] == pytest.approx(w.loss(x), abs=1e-12)
        handed = rule(w, x) + decays * x
        velocity = handed if t == 0 else momentum * velocity + handed
        x = x - rates * (handed + momentum * velocity if nesterov else velocity)
        x = x + rates * memory.pop("after", 0.0)
        if "at_end" in memory:
            memory.pop("at_end")(w, x)
    np.testing.assert_allclose(p.weights().numpy(), x, rtol=0, atol=1e-12)


# Rules without examples of their own to choose: m-sharpness is the mean of what each part hands.
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", ["sam", "asam all", "linf op", "gsam", "gnp", "crsam", "wsam coupled"])
def test_m_sharpness_against_numpy(case: str, seed: int) -> None:
    name, maker = RULES[case]
    rng = np.random.default_rng([seed, *case.encode()])
    parameters, rule = maker(rng)
    p = problem(seed=seed)
    x, velocity = p.weights().numpy(), np.zeros(SIZE)
    opt = build(name, torch.optim.SGD(p.model.named_parameters(), LR, 0.9), m_sharpness=True, **parameters)
    for t in range(STEPS):
        opt.step(closures(p, opt, t, 4))
        inputs, targets = (part.numpy() for part in p.batches[t % len(p.batches)])
        parts = zip(np.split(inputs, 4), np.split(targets, 4), strict=True)
        handed = np.mean([rule(World(a, b, t, {}), x) for a, b in parts], axis=0)
        velocity = handed if t == 0 else 0.9 * velocity + handed
        x = x - LR * velocity
    np.testing.assert_allclose(p.weights().numpy(), x, rtol=0, atol=1e-12)


RADIAL = ["sam", "asam", "fishersam", "linf", "l1", "nsupport", "gsam", "gnp", "wsam", "looksam", "crsam"]


@pytest.mark.parametrize("name", RADIAL)
def test_a_group_may_have_a_radius_of_its_own(name: str) -> None:
    """Its share of e is longer by the ratio of the two radii; the norm is over all groups."""
    found = []
    for own in ({}, {"rho": 0.3}):
        p = problem()
        named = list(p.model.named_parameters())
        base = torch.optim.SGD([{"params": named[:2]}, {"params": named[2:], **own}], lr=LR)
        opt, (x, y), seen = build(name, base, rho=0.1), p.batches[0], []

        def losses(p: Any = p, x: Any = x, y: Any = y, seen: Any = seen) -> Tensor:
            seen.append(p.weights().numpy())
            return nn.functional.cross_entropy(p.model(x), y, reduction="none")

        opt.step(BatchLoss(opt, losses))
        found.append(seen[1] - seen[0])
    np.testing.assert_allclose(
        found[1], found[0] * np.repeat([1.0, 3.0], [84, SIZE - 84]), rtol=0, atol=1e-14
    )
