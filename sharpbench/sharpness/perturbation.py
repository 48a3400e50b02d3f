"""Sharpness by perturbation: along the gradient, at worst within a ball, and on average."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import must_be, unknown_name
from .chi_square import mean_of_forms
from .estimate import Estimate
from .precise import PreciseLosses
from .surface import LossSurface

Norm = Literal["l2", "linf"]


def sam_sharpness(surface: LossSurface, rho: float) -> Estimate:
    """``L(x + rho g/||g||) - L(x)``, ``g = grad L(x)`` over the whole data set (Foret et al. 2021, eq. 2).

    0 where the gradient vanishes. Nothing is sampled; the losses are in float64 where the model can be run so
    (:class:`~sharpbench.sharpness.precise.PreciseLosses`), else the interval holds their rounding.

    Raises:
        InvalidInput: rho not > 0.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(1.0)
        >>> surface = LossSurface(model, nn.functional.mse_loss, (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> round(sam_sharpness(surface, 0.5).value, 6)  # 1.5² - 1
        1.25
    """
    _check_radius(rho)
    gradient = surface.gradient()
    length = float(gradient.norm())
    if length == 0.0:
        return Estimate.exact("sam_sharpness", 0.0, note="the gradient is zero")
    losses = PreciseLosses(surface)
    rise = float(losses.losses_at((gradient * (rho / length)).reshape(-1, 1))[0]) - losses.base
    if losses.twin is not None:
        return Estimate.exact("sam_sharpness", rise)
    return Estimate.from_error(
        "sam_sharpness", rise, 0.0, math.inf, bias=2 * losses.rounding, note=losses.note()
    )


def worst_case_sharpness(
    surface: LossSurface,
    rho: float,
    *,
    steps: int = 10,
    restarts: int = 3,
    norm: Norm = "l2",
    adaptive: bool = False,
    seed: int = 0,
    clip: bool = True,
) -> Estimate:
    """A lower bound of ``max_{||T^-1 e|| <= rho} L(x + e) - L(x)``, by projected normalised ascent.

    The maximum itself may be larger by an unknown amount, so the estimate has no standard error and no
    interval (both nan), is never ``converged``, and its note begins with "lower bound".

    ``T = I``, or ``diag(|x|)`` with ``adaptive`` (Kwon et al. 2021, eq. 3). The first start is x itself (so
    that one step is SAM's), the others are random in the ball; the best loss met anywhere counts.

    Args:
        surface: the loss surface.
        rho: radius of the ball.
        steps: gradient steps for each start, each of length 2 rho / steps (rho for a single step).
        restarts: how many starts.
        norm: ``"l2"`` or ``"linf"``.
        adaptive: measure e relative to the weights.
        seed: of the private random stream.
        clip: count x itself among the points met, so that the result is at least 0.

    Raises:
        InvalidInput: rho not > 0, steps or restarts < 1, unknown norm.
    """
    _check_radius(rho)
    if norm not in ("l2", "linf"):
        raise unknown_name("norm", norm, ["l2", "linf"])
    if steps < 1 or restarts < 1:
        raise must_be("steps and restarts", ">= 1", (steps, restarts))
    generator = torch.Generator().manual_seed(seed)
    point = surface.point()
    scale = point.abs() if adaptive else torch.ones_like(point)
    stride = rho if steps == 1 else 2 * rho / steps
    best, furthest = (0.0 if clip else -math.inf), torch.zeros_like(point)
    with surface.session():
        base = surface.loss()
        for start in range(restarts):
            # y = T^-1 e: in these coordinates the ball is round and the gradient is T g.
            y = torch.zeros_like(point)
            if start:
                y = _project(torch.randn(len(y), generator=generator).to(y), rho, norm, onto_surface=True)
            for _ in range(steps):
                slope = scale * surface.gradient_at(scale * y)
                if float(slope.norm()) == 0.0:
                    break
                direction = slope / slope.norm() if norm == "l2" else slope.sign()
                y = _project(y + stride * direction, rho, norm)
                rise = surface.loss_at(scale * y) - base
                if rise > best:
                    best, furthest = rise, scale * y
        if bool(furthest.any()):
            # The ascent compares losses in the model's own precision; the value reported is exact.
            losses = PreciseLosses(surface)
            best = float(losses.losses_at(furthest.reshape(-1, 1))[0]) - losses.base
            best = max(best, 0.0) if clip else best
    best = best if math.isfinite(best) else 0.0  # no ascent direction anywhere
    note = f"{norm}, {steps} ascent steps, {restarts} starts"
    return Estimate.lower_bound("adaptive_worst_case" if adaptive else "worst_case", best, note=note)


def average_case_sharpness(
    surface: LossSurface, rho: float, *, n: int = 32, adaptive: bool = False, seed: int = 0
) -> Estimate:
    """``E_{u ~ N(0, rho² I / d)} L(x + u) - L(x)``, or with ``|x| * u`` where adaptive.

    The displacement has length about rho, as in the other measures, whatever the dimension. Directions
    come in pairs u, -u, which cancels the gradient's part.

    Raises:
        InvalidInput: rho not > 0, n < 2.
    """
    _check_radius(rho)
    if n < 2:
        raise must_be("n", ">= 2", n)
    generator = torch.Generator().manual_seed(seed)
    point = surface.point()
    scale = point.abs() if adaptive else torch.ones_like(point)
    with surface.session():
        losses = PreciseLosses(surface)
        means = []
        for start in range(0, n, 32):
            size = (min(32, n - start), len(point))
            rows = torch.randn(size, generator=generator).to(point) * (rho / math.sqrt(len(point))) * scale
            means.append(0.5 * (losses.losses_at(rows.T) + losses.losses_at(-rows.T)) - losses.base)
    name = "adaptive_average_case" if adaptive else "average_case"
    values = torch.cat(means).numpy()
    # The two losses at u and -u, and the one at x, are each off by up to the rounding.
    found = mean_of_forms(name, values, positive=False, bias=2 * losses.rounding)
    return replace(found, note=losses.note())


def _project(y: Tensor, rho: float, norm: Norm, onto_surface: bool = False) -> Tensor:
    if norm == "linf":
        return y.sign() * rho if onto_surface else y.clamp(-rho, rho)
    length = float(y.norm())
    return y * (rho / length) if length > rho or onto_surface else y


def _check_radius(rho: float) -> None:
    if not (math.isfinite(rho) and rho > 0):
        raise must_be("rho", "> 0", rho)
