"""Hessian-vector products against central differences, layer by layer, and against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.sharpness import LossSurface


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.mix = nn.Linear(5, 5)
        self.readout = nn.Linear(5, 7, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.mix(self.embedding(tokens)))).mean(1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.attention(x, x, x, need_weights=False)[0].mean(1))


def _batch_norm_net() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3), nn.BatchNorm1d(3)
    )
    for _ in range(3):  # running statistics away from their defaults
        model(torch.randn(8, 1, 6, 6) * 2 + 1)
    return model


CASES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), (10, 4)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(48, 3)),
        (6, 1, 6, 6),
    ),
    "batch_norm": (_batch_norm_net, (6, 1, 6, 6)),
    "layer_norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)),
        (10, 4),
    ),
    "group_norm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3)
        ),
        (5, 1, 6, 6),
    ),
    "attention": (Attention, (5, 4, 6)),
    "tied_embedding": (TiedEmbedding, None),
}


def _case(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    build, shape = CASES[name]
    model = build()
    inputs = torch.randint(0, 7, (6, 4)) if shape is None else torch.randn(shape)
    targets = torch.randint(0, 3, (len(inputs),))
    return model.double().eval(), (inputs if shape is None else inputs.double(), targets)


@pytest.mark.parametrize("name", CASES)
def test_products_agree_with_central_differences(name: str) -> None:
    model, data = _case(name)
    surface = LossSurface(model, F.cross_entropy, data)
    vectors = torch.randn(surface.dimension, 3, dtype=torch.float64)
    step = 1e-5
    for vector, product in zip(vectors.T, surface.hvp(vectors).T, strict=True):
        ahead, behind = surface.gradient_at(step * vector), surface.gradient_at(-step * vector)
        assert torch.allclose(product, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_gradient_agrees_with_losses(name: str) -> None:
    model, data = _case(name)
    surface = LossSurface(model, F.cross_entropy, data)
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    ahead, behind = surface.losses_at(torch.stack([1e-5 * vector, -1e-5 * vector], dim=1))
    assert float(surface.gradient() @ vector) == pytest.approx(
        float(ahead - behind) / 2e-5, rel=1e-5, abs=1e-8
    )


def test_batch_norm_is_folded_and_gives_the_generic_product() -> None:
    model, data = _case("batch_norm")
    surface = LossSurface(model, F.cross_entropy, data)
    assert surface.form == "channels_last"
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    folded = surface.hvp(vector)
    surface.form = "own"
    assert torch.allclose(folded, surface.hvp(vector), rtol=1e-9, atol=1e-12)


def test_a_batch_norm_subclass_is_left_alone() -> None:
    class Doubled(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(3, 4), Doubled(4)).double().eval()
    data = (torch.randn(9, 3, dtype=torch.float64), torch.randint(0, 4, (9,)))
    surface = LossSurface(model, F.cross_entropy, data)
    expected = F.cross_entropy(model(data[0]), data[1]).item()
    assert surface.loss() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(3, 12), batch=st.integers(1, 13), k=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_linear_regression_has_hessian_gram_matrix_however_it_is_batched(
    n: int, batch: int, k: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double()
    surface = LossSurface(model, lambda out, t: 0.5 * F.mse_loss(out, t), (x, y), batch_size=batch)
    vectors = torch.randn(4, k, generator=generator, dtype=torch.float64)
    weight = model.weight.detach().T
    assert torch.allclose(surface.hvp(vectors), x.T @ x @ vectors / n, atol=1e-12)
    assert torch.allclose(surface.gradient(), (x.T @ (x @ weight - y))[:, 0] / n, atol=1e-12)
    assert surface.loss() == pytest.approx(0.5 * float((x @ weight - y).square().mean()), rel=1e-12)
    assert torch.allclose(surface.dense_hessian(), x.T @ x / n, atol=1e-12)


def test_uneven_batches_of_a_list_weigh_by_their_size() -> None:
    model, (inputs, targets) = _case("mlp")
    whole = LossSurface(model, F.cross_entropy, (inputs, targets))
    parts = LossSurface(model, F.cross_entropy, [(inputs[:7], targets[:7]), (inputs[7:], targets[7:])])
    vector = torch.randn(whole.dimension, dtype=torch.float64)
    assert parts.examples == 10
    assert parts.loss() == pytest.approx(whole.loss(), rel=1e-12)
    assert torch.allclose(parts.gradient(), whole.gradient(), atol=1e-14)
    assert torch.allclose(parts.hvp(vector), whole.hvp(vector), atol=1e-13)


def test_a_block_equals_its_columns_and_counts_them() -> None:
    model, data = _case("mlp")
    surface = LossSurface(model, F.cross_entropy, data)
    vectors = torch.randn(surface.dimension, 4, dtype=torch.float64)
    block = surface.hvp(vectors)
    assert surface.hvps == 4
    columns = torch.stack([surface.hvp(v) for v in vectors.T], dim=1)
    # The last of the block comes from a recorded line, whose fused sums of products may round otherwise.
    torch.testing.assert_close(block, columns, rtol=1e-13, atol=1e-15)


def test_kept_graph_survives_losses_elsewhere_and_not_a_change_of_weights() -> None:
    model, data = _case("mlp")
    surface = LossSurface(model, F.cross_entropy, data)
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    with surface.session():
        before = surface.hvp(vector)
        surface.losses_at(torch.randn(surface.dimension, 2, dtype=torch.float64))
        assert torch.equal(surface.hvp(vector), before)
        with torch.no_grad():
            model[0].weight.mul_(1.5)
        changed = surface.hvp(vector)
    assert not torch.allclose(changed, before)
    assert torch.equal(changed, surface.hvp(vector))


def test_unused_parameters_give_zeros() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    surface = LossSurface(Half(), F.cross_entropy, (torch.randn(5, 2), torch.randint(0, 2, (5,))))
    product = surface.hvp(torch.randn(surface.dimension))
    assert torch.equal(product[6:], torch.zeros(6))
    assert float(product[:6].norm()) > 0


def test_a_loss_linear_in_the_parameters_has_no_curvature() -> None:
    model = nn.Linear(3, 1)
    surface = LossSurface(model, lambda out, t: (out - t).mean(), (torch.randn(4, 3), torch.zeros(4, 1)))
    assert torch.equal(surface.hvp(torch.ones(4)), torch.zeros(4))


def test_named_parameters_select_a_block_of_the_hessian() -> None:
    model, data = _case("mlp")
    whole = LossSurface(model, F.cross_entropy, data).dense_hessian()
    part = LossSurface(model, F.cross_entropy, data, params=["2.weight", "2.bias"]).dense_hessian()
    assert torch.allclose(part, whole[30:, 30:], atol=1e-13)
