"""Path norms and norms of matrices, layer by layer, against sums over paths and matrices written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sharpbench.sharpness import LossSurface, capacity_rows, path_norm


def _surface(model: nn.Module, shape: tuple[int, ...], params: str = "all") -> LossSurface:
    model = model.double().eval()
    inputs = torch.ones(2, *shape, dtype=torch.float64)
    return LossSurface(model, lambda out, _: out.square().mean(), (inputs, torch.zeros(2)), params=params)


def _paths(layers: list[nn.Module], shape: tuple[int, ...]) -> float:
    """The sum over paths of the product of squared weights, from each layer's Jacobian (all are linear)."""
    total = torch.ones(math.prod(shape), dtype=torch.float64)
    for layer in layers:
        jacobian = torch.autograd.functional.jacobian(layer, torch.ones(1, *shape, dtype=torch.float64))
        shape = tuple(layer(torch.ones(1, *shape, dtype=torch.float64)).shape[1:])
        total = jacobian.reshape(math.prod(shape), -1).square() @ total
    return float(total.sum())


POOLS = {
    "plain": (nn.AvgPool2d(2), (2, 6, 5)),
    "padded": (nn.AvgPool2d(3, 2, 1), (2, 6, 5)),
    "padding_not_counted": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 6, 5)),
    "ceil": (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 6, 6)),
    "ceil_not_counted": (nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), (2, 5, 5)),
    "override": (nn.AvgPool2d(2, divisor_override=3), (2, 6, 5)),
    "one": (nn.AvgPool1d(3, 2, 1), (2, 7)),
    "three": (nn.AvgPool3d(2, padding=1), (1, 4, 3, 5)),
    "adaptive": (nn.AdaptiveAvgPool2d((4, 2)), (2, 6, 5)),
    "adaptive_to_one": (nn.AdaptiveAvgPool2d(1), (2, 6, 5)),
    "adaptive_one": (nn.AdaptiveAvgPool1d(3), (2, 7)),
}


@pytest.mark.parametrize("name", POOLS)
def test_the_weights_of_average_pooling_are_squared_too(name: str) -> None:
    torch.manual_seed(0)
    pool, shape = POOLS[name]
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    first = kinds[len(shape) - 1](shape[0], 2, 1, bias=False)
    between = int(torch.tensor(pool(first(torch.ones(1, *shape))).shape[1:]).prod())
    layers = [first, pool, nn.Flatten(), nn.Linear(between, 3, bias=False)]
    found = path_norm(_surface(nn.Sequential(*layers), shape))
    assert found.value**2 == pytest.approx(_paths(layers, shape), rel=1e-12)


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Skipping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda _module, _inputs, out: 2 * out)
    return layer


def _patched() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: 2 * F.linear(x, layer.weight)  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Doubled(nn.Linear(4, 4)), "Doubled with a forward of its own"),
        (Skipping(4, 4), "Skipping with a forward of its own"),
        (_hooked(), "forward hook"),
        (_patched(), "forward of its own"),
        (parametrizations.orthogonal(nn.Linear(4, 4)), "parametrised"),
        (nn.LayerNorm(4), "LayerNorm"),
    ],
)
def test_what_does_not_carry_squared_weights_is_undefined(layer: nn.Module, reason: str) -> None:
    found = path_norm(_surface(nn.Sequential(layer, nn.Linear(4, 3)), (4,)))
    assert math.isnan(found.value)
    assert not found.converged
    assert reason in found.note


def test_the_model_is_left_alone_and_float32_weights_do_not_overflow() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1e15)
    before = [p.clone() for p in model.parameters()]
    surface = LossSurface(model, lambda out, _: (out * 1e-30).mean(), (torch.ones(2, 3), torch.zeros(2)))
    assert path_norm(surface).value == pytest.approx(1e30 * math.sqrt(3 * 3 * 2), rel=1e-6)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


class Conv1D(nn.Module):
    """The linear layer of GPT-2 in transformers: its weight has the shape (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def _rows(surface: LossSurface) -> dict[str, float]:
    return {row.name: row.value for row in capacity_rows(surface)}


def test_matrices_of_conv1d_and_of_the_measured_layers_only() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(5, 4), nn.Tanh(), nn.Linear(5, 3))
    first, last = model[0].weight.detach().double(), model[2].weight.detach().double()
    rows = _rows(_surface(model, (4,)))
    assert rows["frobenius_sum"] == pytest.approx(float(first.square().sum() + last.square().sum()))
    spectral = [float(torch.linalg.matrix_norm(w.double(), 2)) for w in (first, last)]
    assert rows["log_spectral_product"] == pytest.approx(sum(2 * math.log(norm) for norm in spectral))
    rows = _rows(_surface(model, (4,), params="0.*"))
    assert rows["frobenius_sum"] == pytest.approx(float(first.square().sum()))
    assert rows["log_spectral_product"] == pytest.approx(2 * math.log(spectral[0]))
    assert "frobenius_sum" not in _rows(_surface(model, (4,), params="*.bias"))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_matrix_of_a_grouped_convolution_is_block_diagonal(groups: int, transposed: bool) -> None:
    torch.manual_seed(0)
    layer = (nn.ConvTranspose1d if transposed else nn.Conv1d)(4, 6, 1, groups=groups, bias=False)
    rows = _rows(_surface(nn.Sequential(layer, nn.Flatten()), (4, 1)))
    matrix = torch.autograd.functional.jacobian(layer, torch.ones(1, 4, 1).double()).reshape(6, 4)
    assert rows["frobenius_sum"] == pytest.approx(float(matrix.square().sum()))
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    assert rows["log_spectral_product"] == pytest.approx(2 * math.log(largest))


def test_attention_counts_and_what_is_left_out_is_named() -> None:
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
            self.readout = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embedding(x)
            return self.readout(self.mix(h, h, h)[0].mean(1))

    model = Tokens()
    surface = LossSurface(model, F.cross_entropy, (torch.arange(10).reshape(2, 5) % 5, torch.arange(2)))
    rows = {row.name: row for row in capacity_rows(surface)}
    counted = (model.mix.in_proj_weight, model.mix.out_proj.weight, model.readout.weight)
    assert rows["frobenius_sum"].value == pytest.approx(
        sum(float(w.detach().square().sum()) for w in counted), rel=1e-6
    )
    assert rows["frobenius_sum"].note == "without the matrices of Embedding"


def test_a_zero_matrix_has_no_logarithm_and_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[2].weight.zero_()
    rows = {row.name: row for row in capacity_rows(_surface(model, (4,)))}
    found = rows["log_spectral_product"]
    assert math.isnan(found.value)
    assert "2 are zero" in found.note
    norm = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    data = (torch.randn(6, 4), torch.arange(6) % 3)
    over = {row.name: row for row in capacity_rows(LossSurface(norm, F.cross_entropy, data))}
    found = over["path_norm_squared_over_margin2"]
    assert math.isnan(found.std_error)
    assert "LayerNorm" in found.note


def test_paths_of_a_chain_by_enumeration() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    squares = [p.detach().double().square() for p in model.parameters()]
    total = float(squares[3].sum())
    for hidden, out in itertools.product(range(3), range(2)):
        total += float((squares[0][hidden].sum() + squares[1][hidden]) * squares[2][out, hidden])
    assert path_norm(_surface(model, (2,))).value ** 2 == pytest.approx(total, rel=1e-12)
