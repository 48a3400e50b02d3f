"""Capacity: norms of the weights and the margin (Jiang et al. 2019, "Fantastic generalization measures")."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InvalidInput, must_be
from .estimate import Estimate
from .matrices import WeightMatrices, weight_matrices
from .path_norm import path_norm
from .relative import is_classification
from .surface import LossSurface

MARGIN_PERCENTILE = 0.1


def capacity_rows(surface: LossSurface, initial: Mapping[str, Tensor] | None = None) -> list[Estimate]:
    """Norms, and for classifiers the margin and the norms over margin².

    ``weight_norm`` ‖x‖; ``distance_from_init`` ‖x − x₀‖ where ``initial`` (a state dict) is given;
    ``frobenius_sum`` Σ‖W‖_F² and ``log_spectral_product`` Σ log ‖W‖₂² over the linear and convolutional
    layers whose weights are measured (:func:`~sharpbench.sharpness.matrices.weight_matrices`; the notes name
    the measured matrices of other layers, which are not counted); ``path_norm``; ``margin``, the 10th
    percentile of (correct logit − best other); and ``frobenius_sum_over_margin2``,
    ``path_norm_squared_over_margin2``. Exact: nothing is sampled.

    Example:
        >>> from torch import nn
        >>> model, data = nn.Linear(2, 2, bias=False), (torch.eye(2), torch.tensor([0, 1]))
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> surface = LossSurface(model, nn.functional.cross_entropy, data)
        >>> {row.name: round(row.value, 3) for row in capacity_rows(surface)}["weight_norm"]
        5.0
    """
    found = [Estimate.exact("weight_norm", float(surface.point().double().norm()))]
    if initial is not None:
        found.append(Estimate.exact("distance_from_init", distance_from(surface, initial)))
    layers = weight_matrices(surface)
    squares = [float(sum(w.square().sum() for w in layer.blocks)) for layer in layers.found]
    if layers.found:
        found.append(Estimate.exact("frobenius_sum", sum(squares), note=layers.note()))
        found.append(_log_spectral_product(layers))
    path = path_norm(surface)
    found.append(path)
    if is_classification(surface):
        value = margin(surface)
        found.append(Estimate.exact("margin", value, note="10th percentile of correct logit - best other"))
        over = {"path_norm_squared_over_margin2": (path.value**2, path.note)}
        if layers.found:
            over["frobenius_sum_over_margin2"] = (sum(squares), layers.note())
        for name, (quantity, note) in over.items():
            if not math.isfinite(quantity):
                found.append(Estimate.undefined(name, note))
            elif value > 0:
                found.append(Estimate.exact(name, quantity / value**2, note=note))
            else:
                found.append(Estimate.undefined(name, f"the margin is not positive: {value:.4g}"))
    return found


def _log_spectral_product(layers: WeightMatrices) -> Estimate:
    """``sum of log ||W||_2²`` by layer; undefined with a zero matrix, whose logarithm is minus infinity."""
    norms = {
        layer.name: max(float(torch.linalg.matrix_norm(w, 2)) for w in layer.blocks) for layer in layers.found
    }
    zeros = [name for name, norm in norms.items() if norm == 0]
    if zeros:
        return Estimate.undefined("log_spectral_product", f"the weights of {', '.join(zeros)} are zero")
    value = sum(2 * math.log(norm) for norm in norms.values())
    note = "; ".join(part for part in ("sum of log ||W||_2^2 by layer", layers.note()) if part)
    return Estimate.exact("log_spectral_product", value, note=note)


def distance_from(surface: LossSurface, initial: Mapping[str, Tensor]) -> float:
    """``||x - x_0||`` with x_0 from a state dict, over the measured parameters.

    Raises:
        InvalidInput: a measured parameter is missing from it, or has another shape there.
    """
    wanted = {id(p) for p in surface.parameters}
    total = 0.0
    for name, p in surface.model.named_parameters():
        if id(p) not in wanted:
            continue
        if name not in initial or initial[name].shape != p.shape:
            raise InvalidInput(
                f"initial must hold {name!r} of shape {tuple(p.shape)}; is it of another model?"
            )
        here, there = p.detach().double(), initial[name].detach().to(p.device, torch.float64)
        total += float((here - there).square().sum())
    return math.sqrt(total)


def margin(surface: LossSurface, percentile: float = MARGIN_PERCENTILE) -> float:
    """The ``percentile`` quantile of (correct logit − best other logit) over the examples.

    Raises:
        InvalidInput: a percentile outside (0, 1).
    """
    if not 0 < percentile < 1:
        raise must_be("percentile", "in (0, 1)", percentile)
    margins = []
    for outputs, labels in surface.outputs():
        correct = outputs.gather(1, labels[:, None])[:, 0]
        others = outputs.scatter(1, labels[:, None], -math.inf).amax(1)
        margins.append((correct - others).double().cpu())
    return float(torch.quantile(torch.cat(margins), percentile))
