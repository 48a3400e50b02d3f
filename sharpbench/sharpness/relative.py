"""Curvature relative to the weights, and Gauss-Newton rows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from .batches import Batch
from .estimate import Estimate
from .gauss_newton import GaussNewton
from .operator import Rescaled, SymmetricOperator
from .spectrum import spectrum
from .surface import LossSurface


def gauss_newton_rows(surface: LossSurface, *, hvps: int = 50, seed: int = 0) -> list[Estimate]:
    """``ggn_trace``, ``ggn_lambda_1`` and, for classifiers, ``fisher_trace``; one pass of products with G.

    The Fisher matrix under the model's own labels, ``E_x E_{y ~ p(.|x)} grad log p grad log p^T``, is G for
    cross-entropy of logits and integer labels, and only then is the row given.
    """
    found = spectrum(GaussNewton(surface), hvps=hvps, seed=seed, eigenvalues=1)
    note = "generalised Gauss-Newton matrix"
    trace = _named(found.trace(), "ggn_trace", note)
    top = _named(found.top_eigenvalues(1)[0], "ggn_lambda_1", note)
    if not is_classification(surface):
        return [trace, top]
    return [
        trace,
        top,
        _named(found.trace(), "fisher_trace", "labels drawn from the model; equals ggn_trace"),
    ]


def relative_flatness(surface: LossSurface) -> list[Estimate]:
    """``relative_flatness = x^T H x`` and, with G for H, ``fisher_rao = x^T G x``; one product each.

    The first is the relative flatness of Petzka et al. (2021) summed over all weights at once, the second the
    squared Fisher-Rao norm of Liang et al. (2019) where G is the Fisher matrix (classifiers).

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(3.0)
        >>> data = (torch.ones(1, 1), torch.zeros(1, 1))
        >>> [row.value for row in relative_flatness(LossSurface(model, nn.functional.mse_loss, data))]
        [18.0, 18.0]
    """
    x = surface.point()
    rows = []
    operators: dict[str, tuple[SymmetricOperator, str]] = {
        "relative_flatness": (surface, "x^T H x"),
        "fisher_rao": (GaussNewton(surface), "x^T G x, G the Gauss-Newton matrix"),
    }
    for name, (operator, note) in operators.items():
        bent = x.double() * operator.hvp(x).double()
        # Terms that cancel, as they do where layers can be rescaled, leave their rounding behind.
        rounding = 10 * torch.finfo(surface.dtype).eps * float(bent.abs().sum())
        value = float(bent.sum())
        if rounding <= 1e-3 * abs(value):
            rows.append(Estimate.exact(name, value, hvps=1, note=note))
        else:
            rows.append(Estimate.from_error(name, value, 0.0, math.inf, bias=rounding, hvps=1, note=note))
    return rows


def scale_invariant_rows(surface: LossSurface, *, hvps: int = 50, seed: int = 0) -> list[Estimate]:
    """``scale_invariant_trace`` and ``scale_invariant_lambda_1``: of ``D_x H D_x``, from one pass."""
    found = spectrum(Rescaled(surface, surface.point()), hvps=hvps, seed=seed, eigenvalues=1)
    return [
        _named(found.trace(), "scale_invariant_trace", "tr D_x H D_x"),
        _named(found.top_eigenvalues(1)[0], "scale_invariant_lambda_1", "of D_x H D_x"),
    ]


def _named(found: Estimate, name: str, note: str) -> Estimate:
    """The estimate under its row's name; what it has to say of its own interval stays."""
    return replace(found, name=name, note=f"{note}; {found.note}" if found.note else note)


def is_classification(surface: LossSurface) -> bool:
    """Whether the surface's loss is the plain mean of the cross-entropy of its outputs and labels.

    On every batch: one that holds a single class does not show class weights.
    """
    with surface.session(), surface.evaluate.values_only():
        plain = all(_is_cross_entropy(surface, batch) for batch in surface.batches)
    return not float(surface.shards.sum(torch.tensor([float(not plain)], device=surface.device)))


def _is_cross_entropy(surface: LossSurface, batch: Batch) -> bool:
    labels = batch.targets
    if not isinstance(labels, torch.Tensor) or labels.ndim != 1 or labels.is_floating_point():
        return False
    outputs = surface.model(batch.inputs)
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    if int(labels.min()) < 0 or int(labels.max()) >= outputs.shape[1]:
        return False
    if abs(surface.share(batch) * surface.examples - batch.count) > 1e-6 * batch.count:
        return False
    outputs = outputs.detach()
    ours = float(surface.evaluate.loss_of(outputs, labels).detach())
    plain = float(torch.nn.functional.cross_entropy(outputs, labels))
    return abs(ours - plain) <= 1e-4 * max(1.0, abs(ours))
