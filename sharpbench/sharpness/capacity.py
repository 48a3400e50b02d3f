"""Capacity: norms of the weights and the margin (Jiang et al. 2019, "Fantastic generalization measures")."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import InvalidInput, must_be
from .estimate import Estimate
from .relative import is_classification
from .surface import LossSurface

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# What passes squared weights through unchanged.
TRANSPARENT = (
    nn.ReLU, nn.LeakyReLU, nn.Flatten, nn.Identity, nn.Dropout, nn.AvgPool2d, nn.MaxPool2d,
    nn.AdaptiveAvgPool2d, nn.Sequential, nn.ModuleList,
)  # fmt: skip
MARGIN_PERCENTILE = 0.1


def capacity_rows(surface: LossSurface, initial: Mapping[str, Tensor] | None = None) -> list[Estimate]:
    """Norms, and for classifiers the margin and the norms over margin².

    ``weight_norm`` ‖x‖; ``distance_from_init`` ‖x − x₀‖ where ``initial`` (a state dict) is given;
    ``frobenius_sum`` Σ‖W‖_F² and ``log_spectral_product`` Σ log ‖W‖₂² over linear and convolutional layers
    (a convolution as its matrix of shape (outputs, inputs x window)); ``path_norm``; ``margin``, the 10th
    percentile of (correct logit − best other); and ``frobenius_sum_over_margin2``,
    ``path_norm_squared_over_margin2``. Exact: nothing is sampled.

    Example:
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
    matrices = [
        m.weight.detach().flatten(1).double() for m in surface.model.modules() if isinstance(m, WEIGHTED)
    ]
    if matrices:
        norms = [float(torch.linalg.matrix_norm(w, 2)) for w in matrices]
        total = sum(float(w.square().sum()) for w in matrices)
        found.append(Estimate.exact("frobenius_sum", total))
        log_product = sum(2 * math.log(norm) if norm > 0 else -math.inf for norm in norms)
        found.append(
            Estimate.exact("log_spectral_product", log_product, note="sum of log ||W||_2^2 by layer")
        )
    path = path_norm(surface)
    found.append(path)
    if is_classification(surface):
        value = margin(surface)
        found.append(Estimate.exact("margin", value, note="10th percentile of correct logit - best other"))
        over = {"path_norm_squared_over_margin2": path.value**2}
        if matrices:
            over["frobenius_sum_over_margin2"] = total
        for name, quantity in over.items():
            if value > 0:
                found.append(Estimate.exact(name, quantity / value**2))
            else:
                found.append(Estimate.undefined(name, f"the margin is not positive: {value:.4g}"))
    return found


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
        total += float((p.detach() - initial[name].to(p)).double().square().sum())
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


def path_norm(surface: LossSurface) -> Estimate:
    """``sqrt(sum over paths of prod w²)``: the root of the summed outputs, with squared weights, at an input
    of ones (Neyshabur et al. 2015); for chains of linear, convolutional and piecewise layers.

    Undefined (nan, with the reason) with layers that square weights do not carry through: norms, attention.
    """
    strange = {type(m).__name__ for m in surface.model.modules() if not isinstance(m, WEIGHTED + TRANSPARENT)}
    if strange:
        return Estimate.undefined("path_norm", f"no path norm through {', '.join(sorted(strange))}")
    inputs = next(iter(surface.batches)).inputs
    with surface.session(), surface.evaluate.values_only():
        saved = [p.detach().clone() for p in surface.model.parameters()]
        try:
            for p in surface.model.parameters():
                p.data.square_()
            total = float(surface.model(torch.ones_like(inputs[:1])).detach().double().sum())
        finally:
            for p, before in zip(surface.model.parameters(), saved, strict=True):
                p.data.copy_(before)
    return Estimate.exact("path_norm", math.sqrt(max(total, 0.0)))
