"""Gradients of single examples: the empirical Fisher trace and the gradient's signal-to-noise ratio."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput, must_be
from .batches import Batch
from .chi_square import mean_of_forms
from .estimate import Estimate
from .surface import LossSurface

# How far the mean of the examples' losses, and of their gradients, may be from the batch's own, relative to
# the size of the examples' own: a thousand times the rounding of float32, far less than another weighting.
TOLERANCE = 1e-4


def gradient_moments(surface: LossSurface, *, n: int = 24, seed: int = 0) -> list[Estimate]:
    """The empirical Fisher trace and the gradient signal-to-noise ratio, from n + 3 gradients.

        empirical_fisher_trace = (1/N) sum_i ||g_i||²,   g_i the gradient of example i at its own label
        gradient_snr           = ||mean g||² / ((1/N) sum_i ||g_i - mean g||²)

    For each batch b of n_b examples the mean gradient is computed as it is, and the spread around it from
    random signs s, with their mean taken off: ``E ||sum_i (s_i - mean s) g_i||² = sum_i ||g_i - mean_b
    g||²``, one gradient of weighted losses for each draw, on any architecture in eval mode. This is the
    *empirical* Fisher, at the data's labels; the Fisher trace under the model's own labels is
    ``fisher_trace`` (Kunstner et al. 2019 on the difference).

    Both are defined only where the loss is the plain mean of the losses of single examples. Class weights,
    ignored targets, padding and losses that compare examples with each other give another mean: then both
    are undefined (nan), and the note says so.

    Raises:
        InvalidInput: n < 4, or outputs that do not hold one row for each example.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(1.0)
        >>> data = (torch.ones(4, 1), torch.tensor([[0.0], [0.0], [2.0], [2.0]]))
        >>> surface = LossSurface(model, nn.functional.mse_loss, data)
        >>> fisher, snr = gradient_moments(surface, n=64)
        >>> fisher.contains(4.0), round(snr.value, 6)  # every |g_i| is 2, and they cancel
        (True, 0.0)
    """
    if n < 4:
        raise must_be("n", ">= 4", n)
    generator = torch.Generator().manual_seed(seed)
    mean = float(surface.gradient().double().square().sum())
    squares = np.zeros(n)
    between, reason = 0.0, ""
    with surface.session():
        for batch in surface.batches:
            losses = example_losses(surface, batch)
            own = _gradient(surface, losses.mean(), retain=True)
            between += batch.count * float(own.square().sum())
            before = squares.mean()
            for draw in range(n):
                signs = torch.randint(0, 2, losses.shape, generator=generator).to(losses) * 2 - 1
                weighted = ((signs - signs.mean()) * losses).sum()
                # The signs of different batches are independent, so their squares add.
                squares[draw] += float(_gradient(surface, weighted, draw < n - 1).square().sum())
            size = float(max(squares.mean() - before, 0.0) ** 0.5) / batch.count
            reason = reason or _another_mean(surface, batch, losses.detach().double(), own, size)
        surface.gradients += n + 2
    # Every rank must come to the same verdict, and joins the sum in any case.
    total = torch.from_numpy(np.array([*squares, between, float(bool(reason))])).to(surface.device)
    *within, between, refused = surface.shards.sum(total).cpu().tolist()
    if refused:
        reason = reason or "on another rank, the loss is not the plain mean of the examples' losses"
        return [Estimate.undefined(name, reason) for name in ("empirical_fisher_trace", "gradient_snr")]
    # The spread around the mean over all the data: within batches, and of the batches' means around it.
    within_mean = mean_of_forms("spread", np.asarray(within) / surface.examples)
    spread = _shifted(within_mean, max(between / surface.examples - mean, 0.0))
    note = f"empirical Fisher (the data's labels), {n} sign draws"
    fisher = replace(_shifted(spread, mean), name="empirical_fisher_trace", note=note)
    if not spread.value > 0:
        return [fisher, Estimate.undefined("gradient_snr", "all examples have the same gradient")]
    low, high = mean / spread.ci_high, mean / spread.ci_low if spread.ci_low > 0 else np.inf
    value = mean / spread.value
    error = value * spread.std_error / spread.value
    narrow = bool(max(high - value, value - low) <= 0.05 * value)
    return [fisher, Estimate("gradient_snr", value, error, low, high, 0, narrow)]


def _shifted(found: Estimate, by: float) -> Estimate:
    """The same estimate plus a number that is known."""
    low, high = found.ci_low + by, found.ci_high + by
    narrow = bool(max(high - found.value - by, found.value + by - low) <= 0.05 * abs(found.value + by))
    return replace(found, value=found.value + by, ci_low=low, ci_high=high, converged=narrow)


def _gradient(surface: LossSurface, scalar: Tensor, retain: bool) -> Tensor:
    pieces = torch.autograd.grad(
        scalar, surface.parameters, retain_graph=retain, allow_unused=True, materialize_grads=True
    )
    return torch.cat([piece.detach().reshape(-1).double() for piece in pieces])


def _another_mean(surface: LossSurface, batch: Batch, losses: Tensor, own: Tensor, size: float) -> str:
    """Why the loss of a batch is not the mean of its examples' losses; empty where it is.

    ``own`` is the mean of the examples' gradients, ``size`` that of a mean with random signs, which rounding
    is measured by where the gradients cancel.
    """
    loss, pieces = surface.evaluate.loss_and_gradient(batch)
    gradient = torch.cat([piece.detach().reshape(-1).double() for piece in pieces])
    mean, whole = float(losses.mean()), float(loss.detach())
    # Written so that nan, the loss of a single ignored example, counts as a difference.
    same_loss = abs(whole - mean) <= TOLERANCE * max(float(losses.abs().mean()), abs(whole))
    # Losses may agree by chance (all equal) where the weights differ: gradients tell.
    allowed = TOLERANCE * (max(float(gradient.norm()), float(own.norm())) + size)
    if same_loss and float((gradient - own).norm()) <= allowed:
        return ""
    return (
        f"the loss of a batch ({whole:.6g}) is not the plain mean of the losses of its examples "
        f"({mean:.6g}), or its gradient is not the mean of theirs; class weights, ignored targets, padding, "
        "or a loss that compares examples?"
    )


def example_losses(surface: LossSurface, batch: Batch) -> Tensor:
    """The loss of every example of a batch, with its graph, shape ``(n,)``.

    Raises:
        InvalidInput: outputs without one row for each example, so that examples can't be told apart.
    """
    outputs = surface.model(batch.inputs)
    if not (isinstance(outputs, Tensor) and outputs.ndim and len(outputs) == batch.count):
        raise InvalidInput(
            "gradients of single examples need an output tensor with one row for each example, but got "
            + (str(tuple(outputs.shape)) if isinstance(outputs, Tensor) else type(outputs).__name__)
        )
    loss_of = surface.evaluate.loss_of
    rows = [loss_of(outputs[i : i + 1], batch.targets[i : i + 1]) for i in range(batch.count)]
    return torch.stack(rows)
