"""Fisher, Gauss-Newton, capacity, PAC-Bayes, slices, layers and the reference back end: exact answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import required_tools
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import (
    GaussNewton,
    LossSurface,
    MeasuredInEvalMode,
    Rescaled,
    capacity_rows,
    gauss_newton_rows,
    gradient_moments,
    interpolation,
    m_sharpness,
    measure,
    measure_layers,
    pac_bayes,
    path_norm,
    relative_flatness,
    sam_sharpness,
    scale_invariant_rows,
    slice_1d,
    slice_2d,
    spectrum,
)
from sharpbench.sharpness.operator import dense


def _classifier(seed: int = 0, bias: bool = True) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3, bias=bias)).double()
    inputs = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    return model, (inputs, torch.randint(0, 3, (20,), generator=generator))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(3, 20))
def test_gauss_newton_is_the_fisher_matrix_of_the_models_own_labels(seed: int, batch: int) -> None:
    model, (inputs, labels) = _classifier(seed)
    surface = LossSurface(model, F.cross_entropy, (inputs, labels), batch_size=batch)
    found = dense(GaussNewton(surface))
    fisher = torch.zeros_like(found)
    log_p = torch.log_softmax(model(inputs), 1)
    for row in log_p:
        for value in row:
            pieces = torch.autograd.grad(value, surface.parameters, retain_graph=True)
            g = torch.cat([p.reshape(-1) for p in pieces])
            fisher += float(value.detach().exp()) * torch.outer(g, g) / len(inputs)
    assert torch.allclose(found, fisher, atol=1e-12)
    rows = {row.name: row for row in gauss_newton_rows(surface, hvps=60)}
    assert rows["fisher_trace"].value == pytest.approx(float(fisher.trace()), rel=1e-9)
    assert rows["ggn_lambda_1"].value == pytest.approx(float(torch.linalg.eigvalsh(fisher)[-1]), rel=1e-9)


def test_gauss_newton_of_a_linear_model_is_its_hessian() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (30,), generator=generator)
    surface = LossSurface(nn.Linear(4, 3).double(), F.cross_entropy, (inputs, labels))
    assert torch.allclose(dense(GaussNewton(surface)), surface.dense_hessian(), atol=1e-13)
    p = torch.softmax(surface.model(inputs), 1).detach()
    kernel = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    design = torch.cat([inputs, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    exact = torch.einsum("nab,ni,nj->aibj", kernel, design, design) / 30
    weights = exact[:, :4, :, :4].reshape(12, 12)
    assert torch.allclose(surface.dense_hessian()[:12, :12], weights, atol=1e-13)
    regression = LossSurface(nn.Linear(4, 1).double(), F.mse_loss, (inputs, inputs[:, :1]))
    assert [row.name for row in gauss_newton_rows(regression)] == ["ggn_trace", "ggn_lambda_1"]


def test_rescaling_relu_layers_changes_h_and_not_its_invariant_counterpart() -> None:
    model, data = _classifier(bias=False)
    surface = LossSurface(model, F.cross_entropy, data)
    plain = spectrum(surface).trace().value
    invariant = torch.linalg.eigvalsh(dense(Rescaled(surface, surface.point())))
    named = {row.name: row.value for row in scale_invariant_rows(surface, hvps=60)}
    assert named["scale_invariant_trace"] == pytest.approx(float(invariant.sum()), rel=1e-9)
    assert named["scale_invariant_lambda_1"] == pytest.approx(float(invariant[-1]), rel=1e-9)
    flat = [row.value for row in relative_flatness(surface)]
    with torch.no_grad():
        model[0].weight.mul_(3.0)
        model[2].weight.div_(3.0)
    again = torch.linalg.eigvalsh(dense(Rescaled(surface, surface.point())))
    assert torch.allclose(invariant, again, atol=1e-12)
    assert [row.value for row in relative_flatness(surface)] == pytest.approx(flat, rel=1e-9)
    assert abs(spectrum(surface).trace().value / plain - 1) > 0.2


def test_gradient_moments_hold_the_gradients_of_single_examples() -> None:
    model, (inputs, labels) = _classifier()
    surface = LossSurface(model, F.cross_entropy, (inputs, labels), batch_size=7)
    singles = torch.stack(
        [
            torch.cat(
                [g.reshape(-1) for g in torch.autograd.grad(loss, surface.parameters, retain_graph=True)]
            )
            for loss in F.cross_entropy(model(inputs), labels, reduction="none")
        ]
    )
    exact = float(singles.square().sum(1).mean())
    mean = float(singles.mean(0).square().sum())
    hits = [0, 0]
    for seed in range(20):
        fisher, snr = gradient_moments(surface, n=32, seed=seed)
        hits[0] += fisher.contains(exact)
        hits[1] += snr.contains(mean / (exact - mean))
    assert min(hits) >= 16
    pooled = nn.Sequential(nn.Linear(4, 3).double(), nn.Flatten(0))
    surface = LossSurface(pooled, lambda out, _: out.square().mean(), (inputs, labels))
    with pytest.raises(InvalidInput, match="one row for each example"):
        gradient_moments(surface)


def test_capacity_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    data = (torch.eye(2, dtype=torch.float64), torch.tensor([0, 1]))
    surface = LossSurface(model, F.cross_entropy, data)
    zeros = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    rows = {row.name: row.value for row in capacity_rows(surface, zeros)}
    assert rows["weight_norm"] == rows["distance_from_init"] == pytest.approx(math.sqrt(15))
    assert rows["frobenius_sum"] == pytest.approx(15)
    assert rows["log_spectral_product"] == pytest.approx(math.log(9 * 4))
    assert rows["path_norm"] == pytest.approx(math.sqrt(9 * 4 + 1))
    assert rows["margin"] == pytest.approx(1 + 0.1 * 5)  # margins 6 and 1
    assert rows["frobenius_sum_over_margin2"] == pytest.approx(15 / 1.5**2)
    with pytest.raises(InvalidInput, match="another model"):
        capacity_rows(surface, {})
    norm = LossSurface(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).double(), F.cross_entropy, data)
    assert "LayerNorm" in path_norm(norm).note


def test_pac_bayes_finds_the_noise_that_costs_a_tenth(trained: Any) -> None:
    flat, sigma = pac_bayes(trained.surface, n=16)
    assert flat.value == pytest.approx(sigma.value**-2)
    assert sigma.ci_low < sigma.value < sigma.ci_high
    model, (inputs, labels) = trained.model, trained.data
    before = float((model(inputs).argmax(1) != labels).double().mean())
    point = trained.surface.point()
    rises = []
    with torch.no_grad():
        for seed in range(30):
            noise = torch.randn(len(point), generator=torch.Generator().manual_seed(100 + seed))
            pieces = trained.surface.split(point + sigma.value * noise)
            for p, piece in zip(trained.surface.parameters, pieces, strict=True):
                p.copy_(piece)
            rises.append(float((model(inputs).argmax(1) != labels).double().mean()) - before)
        for p, piece in zip(trained.surface.parameters, trained.surface.split(point), strict=True):
            p.copy_(piece)
    assert np.mean(rises) == pytest.approx(0.1, abs=4 * np.std(rises) / math.sqrt(30) + 0.02)
    with pytest.raises(InvalidInput, match="cross-entropy"):
        pac_bayes(LossSurface(nn.Linear(2, 1), F.mse_loss, (torch.eye(2), torch.ones(2, 1))))


def test_slices_pass_through_the_point_and_interpolation_through_both_ends() -> None:
    model, data = _classifier()
    surface = LossSurface(model, F.cross_entropy, data)
    line = slice_1d(surface, points=5)
    assert line["loss"][2] == pytest.approx(surface.loss())
    plane = slice_2d(surface, points=3)
    assert list(plane.columns) == ["first", "second", "loss"]
    assert plane["loss"][4] == pytest.approx(surface.loss())
    other, _ = _classifier(seed=5)
    path = interpolation(surface, other.state_dict(), points=7, beyond=0.25)
    there = LossSurface(other, F.cross_entropy, data).loss()
    assert np.interp([0.0, 1.0], path["position"], path["loss"])[[0, 1]] == pytest.approx(
        [surface.loss(), there], rel=1e-9
    )
    with pytest.raises(InvalidInput, match="another model"):
        interpolation(surface, {})
    with pytest.raises(InvalidInput, match="reach"):
        slice_1d(surface, reach=0.0)


def test_m_sharpness_of_all_examples_is_sam_sharpness() -> None:
    model, (inputs, labels) = _classifier()
    twice = (torch.cat([inputs, inputs]), torch.cat([labels, labels]))
    surface = LossSurface(model, F.cross_entropy, twice, batch_size=20)
    whole = sam_sharpness(LossSurface(model, F.cross_entropy, (inputs, labels)), 0.1)
    assert m_sharpness(surface, 0.1, m=20).value == pytest.approx(whole.value, rel=1e-8)
    assert m_sharpness(surface, 0.1, m=4).value > whole.value
    with pytest.raises(InvalidInput, match="at least 2 subsets"):
        m_sharpness(LossSurface(model, F.cross_entropy, (inputs, labels)), 0.1, m=20)


def test_traces_of_the_layers_add_up() -> None:
    model, data = _classifier()
    frame = measure_layers(model, F.cross_entropy, data)
    whole = spectrum(LossSurface(model, F.cross_entropy, data)).trace().value
    assert frame.loc[frame["measure"] == "trace", "value"].sum() == pytest.approx(whole, rel=1e-9)
    one = measure(model, F.cross_entropy, data, params="2.*", measures=("spectrum",))
    assert one["trace"] == pytest.approx(frame.loc[(frame["layer"] == "2"), "value"].iloc[0], rel=1e-9)


def test_the_reference_back_end_agrees_and_leaves_gradients_alone(trained: Any) -> None:
    required_tools.imported("pyhessian", "pip install 'sharpbench[pyhessian]'")
    model = trained.model
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    card = measure(model, F.cross_entropy, trained.data, backend="pyhessian", top_k=2, hvps=60)
    top = np.sort(trained.eigenvalues)[::-1]
    assert card["lambda_1"] == pytest.approx(top[0], rel=0.01)
    assert card["lambda_2"] == pytest.approx(top[1], rel=0.02)
    trace = card.frame.set_index("measure").loc["trace"]
    assert abs(trace["value"] - top.sum()) < 5 * trace["std_error"]
    area = np.trapezoid(card.density["density"], card.density["eigenvalue"])
    assert area == pytest.approx(1.0, abs=0.02)
    for p, grad in zip(model.parameters(), before, strict=True):
        assert (p.grad is None) == (grad is None)
        assert grad is None or torch.equal(p.grad, grad)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(InvalidInput, match="one batch"):
        measure(model, F.cross_entropy, trained.data, backend="pyhessian", batch_size=100)
    with pytest.raises(InvalidInput, match="unknown backend"):
        measure(model, F.cross_entropy, trained.data, backend="pyhesian")  # type: ignore[arg-type]


def test_a_model_in_train_mode_is_measured_in_eval_mode_with_a_warning_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    data = (torch.randn(9, 4), torch.arange(9) % 3)
    with pytest.warns(MeasuredInEvalMode, match=r"train mode \(BatchNorm1d, Dropout\)") as caught:
        trained = measure(model, F.cross_entropy, data, measures=("sam_sharpness",))
    assert len(caught) == 1
    assert model.training
    model.eval()  # from here on, silence: warnings are errors in this suite
    assert measure(model, F.cross_entropy, data, measures=("sam_sharpness",))["loss"] == trained["loss"]
    model[1].train()
    with pytest.warns(MeasuredInEvalMode, match=r"\(BatchNorm1d\)") as caught:
        measure_layers(model, F.cross_entropy, data, hvps=6)
    assert len(caught) == 1


def test_train_mode_without_modules_that_mind_is_silent() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)).train()
    measure(model, F.cross_entropy, (torch.randn(9, 4), torch.arange(9) % 3), measures=())
