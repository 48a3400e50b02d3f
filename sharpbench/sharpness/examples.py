"""Gradients of single examples: the empirical Fisher trace and the gradient's signal-to-noise ratio."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidInput, must_be
from .batches import Batch
from .estimate import Estimate, jackknife
from .surface import LossSurface


def gradient_moments(surface: LossSurface, *, n: int = 24, seed: int = 0) -> list[Estimate]:
    """The empirical Fisher trace and the gradient signal-to-noise ratio, from n gradients.

        empirical_fisher_trace = (1/N) sum_i ||g_i||²,   g_i the gradient of example i at its own label
        gradient_snr           = ||mean g||² / ((1/N) sum_i ||g_i - mean g||²)

    With random signs s, ``E ||sum_i s_i g_i||² = sum_i ||g_i||²``: one gradient of the sign-weighted losses
    for each draw, on any architecture in eval mode. This is the *empirical* Fisher, at the data's labels; the
    Fisher trace under the model's own labels is ``fisher_trace`` (Kunstner et al. 2019 on the difference).

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
    with surface.session():
        for batch in surface.batches:
            losses = example_losses(surface, batch)
            for draw in range(n):
                signs = torch.randint(0, 2, losses.shape, generator=generator).to(losses) * 2 - 1
                pieces = torch.autograd.grad(
                    (signs * losses).sum(),
                    surface.parameters,
                    retain_graph=draw < n - 1,
                    allow_unused=True,
                    materialize_grads=True,
                )
                # Signs of different batches are independent, so their squares add.
                squares[draw] += sum(float(p.double().square().sum()) for p in pieces)
        surface.gradients += n
    total = torch.from_numpy(squares).to(surface.device)
    samples = surface.shards.sum(total).cpu().numpy() / surface.examples
    error = float(samples.std(ddof=1)) / math.sqrt(n)
    note = f"empirical Fisher (the data's labels), {n} sign draws"
    fisher = Estimate.from_error("empirical_fisher_trace", float(samples.mean()), error, n - 1, note=note)

    def ratio(kept: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> float:
        spread = float(samples[kept].mean()) - mean
        return mean / spread if spread > 0 else math.inf

    if not math.isfinite(ratio(np.arange(n))):
        return [fisher, Estimate.undefined("gradient_snr", "all examples have the same gradient")]
    value, error, degrees = jackknife(ratio, n)
    return [fisher, Estimate.from_error("gradient_snr", value, error, degrees)]


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
