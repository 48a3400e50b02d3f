"""The empirical Fisher trace and the signal-to-noise ratio: only of losses that are plain means."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.sharpness import LossDependsOnBatches, LossSurface, gradient_moments, pac_bayes


def _data() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    return model, torch.randn(30, 4), torch.arange(30) % 3


def _pairs(outputs: Tensor, targets: Tensor) -> Tensor:
    scores = outputs @ outputs.T
    return F.cross_entropy(scores, torch.arange(len(outputs))) + 0 * targets.sum()


LOSSES = {
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2])),
    "ignored": nn.CrossEntropyLoss(ignore_index=1),
    "pairs": _pairs,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batched", [False, True])
def test_other_means_are_undefined(name: str, batched: bool) -> None:
    model, inputs, labels = _data()
    if batched:
        with pytest.warns(LossDependsOnBatches):
            surface = LossSurface(
                model, LOSSES[name], list(zip(inputs.split(7), labels.split(7), strict=True))
            )
    else:
        surface = LossSurface(model, LOSSES[name], (inputs, labels))
    for row in gradient_moments(surface):
        assert math.isnan(row.value)
        assert math.isnan(row.std_error)
        assert "plain mean" in row.note


def test_equal_losses_with_other_weights_are_found_by_their_gradients() -> None:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()  # every example has the loss log 2, whatever its weight
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0]))
    data = (torch.eye(2).repeat(4, 1), torch.arange(8) % 2)
    assert all(math.isnan(row.value) for row in gradient_moments(LossSurface(model, loss, data)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_plain_means_are_exact_up_to_their_intervals(dtype: torch.dtype, batch_size: int | None) -> None:
    model, inputs, labels = _data()
    model, inputs = model.to(dtype), inputs.to(dtype)
    surface = LossSurface(model, F.cross_entropy, (inputs, labels), batch_size=batch_size)
    singles = torch.stack(
        [
            LossSurface(model, F.cross_entropy, (inputs[i : i + 1], labels[i : i + 1])).gradient()
            for i in range(30)
        ]
    )
    fisher = float(singles.square().sum(1).mean())
    signal = float(singles.mean(0).square().sum())
    hits = [0, 0]
    for seed in range(10):
        rows = gradient_moments(surface, seed=seed)
        hits[0] += rows[0].contains(fisher)
        hits[1] += rows[1].contains(signal / (fisher - signal))
    assert min(hits) >= 9


def test_one_gradient_for_all_examples_is_known_exactly() -> None:
    model = nn.Linear(1, 1, bias=False)
    surface = LossSurface(model, F.mse_loss, (torch.ones(8, 1), torch.full((8, 1), 5.0)))
    fisher, ratio = gradient_moments(surface)
    assert fisher.value == pytest.approx(float(surface.gradient().square().sum()), rel=1e-5)
    assert fisher.half_width <= 1e-5 * fisher.value
    assert math.isnan(ratio.value) or ratio.value > 1e6


def test_noise_beyond_the_search_for_sigma_is_not_a_converged_value() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(20, 4)
    surface = LossSurface(nn.Linear(4, 2), F.cross_entropy, (inputs, torch.zeros(20, dtype=torch.long)))
    with torch.no_grad():
        surface.parameters[1].copy_(torch.tensor([1e4, -1e4]))  # no noise below 100 changes an answer
    flat, sigma = pac_bayes(surface, n=8)
    assert sigma.ci_high == math.inf
    assert flat.ci_low == 0.0
    assert not flat.converged
    assert not sigma.converged
    assert "search" in sigma.note
