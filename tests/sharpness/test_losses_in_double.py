"""Differences of losses that float32 can't hold: in float64, or with their rounding in the interval."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharpbench.functionals import FROBENIUS, TRACE, log_det_measure
from sharpbench.sharpness import (
    LossSurface,
    at_radius,
    average_case_sharpness,
    m_sharpness,
    measure,
    sam_sharpness,
    worst_case_sharpness,
)
from sharpbench.sharpness.precise import PreciseLosses

D, CURVATURE = 400, 20.0


class ReturnsItsLoss(nn.Module):
    """A model that returns its loss, of trace 20, beside an offset that takes float32's digits."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((D,), 0.01))
        self.kind = kind
        if kind == "not to be copied":
            self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float() if self.kind == "casts" else self.weight
        if self.kind == "numpy" and weight.dtype == torch.float64:
            raise TypeError("float32 only")
        return 2.3 + 0.5 * CURVATURE / D * weight.square().sum() * x.mean()


def _surface(kind: str) -> LossSurface:
    data = (torch.ones(4, 1), torch.zeros(4, 1))
    return LossSurface(ReturnsItsLoss(kind), lambda out, _: out, data)


KINDS = ("plain", "casts", "not to be copied", "numpy")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [1e-5, 1e-3, 1e-1])
def test_at_radius_covers_whatever_the_precision(kind: str, rho: float) -> None:
    surface = _surface(kind)
    exact = kind in ("plain", "casts")
    assert (PreciseLosses(surface).twin is not None) == exact
    eigenvalues = np.full(D, CURVATURE / D)
    truths = {
        TRACE: CURVATURE,
        FROBENIUS: float((eigenvalues**2).sum()),
        log_det_measure(0.1): float(np.log1p(0.01 * eigenvalues).sum()),
    }
    for functional, truth in truths.items():
        found = at_radius(surface, functional, rho, 24, seed=1)
        assert found.contains(truth), functional.name
        if not exact and rho == 1e-5:
            assert not found.converged
            assert "rounding" in found.note
    if exact:
        assert at_radius(surface, TRACE, rho, 24, seed=1).half_width < 0.1 * CURVATURE


@pytest.mark.parametrize("kind", KINDS)
def test_average_case_and_sam_sharpness_likewise(kind: str) -> None:
    surface, rho = _surface(kind), 1e-3
    average = average_case_sharpness(surface, rho)
    assert average.contains(0.5 * rho**2 * CURVATURE / D)
    slope = CURVATURE / D * 0.01 * D**0.5
    sam = sam_sharpness(surface, rho)
    assert sam.contains(rho * slope + 0.5 * rho**2 * CURVATURE / D)
    if kind not in ("plain", "casts"):
        assert not average.converged
        assert sam.std_error > 0


def test_the_model_and_the_default_type_are_left_alone() -> None:
    surface = _surface("casts")
    before = surface.parameters[0].clone()
    PreciseLosses(surface)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(surface.parameters[0], before)
    assert surface.parameters[0].dtype == torch.float32


class Valley(nn.Module):
    """A loss whose maximum in the ball the gradient at x points away from."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.1, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w[0] ** 2 + 4 * self.w[1] ** 2 + x.sum() * 0).reshape(1)


def test_a_maximum_by_ascent_is_a_lower_bound_without_an_interval() -> None:
    data = (torch.ones(40, 1), torch.zeros(40))
    surface = LossSurface(Valley(), lambda out, _: out.mean(), data)
    rows = [
        worst_case_sharpness(surface, 0.5),
        worst_case_sharpness(surface, 0.5, norm="linf"),
        worst_case_sharpness(surface, 0.5, adaptive=True),
        m_sharpness(surface, 0.5, m=4, steps=3),
    ]
    for row in rows:
        assert np.isfinite(row.value)
        assert np.isnan([row.std_error, row.ci_low, row.ci_high]).all()
        assert not row.converged
        assert row.note.startswith("lower bound")
    definition = m_sharpness(surface, 0.5, m=4)
    assert np.isfinite([definition.std_error, definition.ci_low]).all()
    card = measure(surface.model, lambda out, _: out.mean(), data, measures=("worst_case",))
    assert card.frame.set_index("measure").loc["worst_case_linf", "converged"] == np.False_
    assert card.notes["adaptive_worst_case"].startswith("lower bound")


def test_m_sharpness_takes_its_subsets_from_all_batches() -> None:
    model = nn.Linear(1, 1, bias=False)
    batches: list[Any] = [(torch.full((8, 1), float(i)), torch.zeros(8, 1)) for i in range(6)]
    surface = LossSurface(model, nn.functional.mse_loss, batches)
    values = [m_sharpness(surface, 0.1, m=8, subsets=3, seed=s).value for s in range(5)]
    assert np.std(values) > 0
