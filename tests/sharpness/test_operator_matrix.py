"""Layer by layer in float64: the product agrees with central differences, or the error names the operator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import GaussNewton, LossSurface, SlowerFormulation


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(4, 3, batch_first=True)
        self.readout = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu")
        self.readout = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layer(x).mean(1))


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 12)
        self.readout = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x).unsqueeze(1).chunk(3, dim=-1)
        return self.readout(F.scaled_dot_product_attention(q, k, v).squeeze(1).mean(1))


class Tokens(nn.Module):
    """A language model with tied weights; the loss is over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.readout = nn.Linear(4, 7, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.layer(self.embedding(tokens)))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.readout = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(checkpoint(lambda t: torch.tanh(self.hidden(t)), x, use_reentrant=False))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.readout = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.tanh(self.hidden(x))
        out = out * 1
        out += x
        return self.readout(out)


def _flat(*layers: nn.Module) -> Callable[[], nn.Module]:
    """Copies, drawn anew at every call: the originals are made at import, before any seed."""

    def build() -> nn.Module:
        model = nn.Sequential(*copy.deepcopy(layers))
        for module in model.modules():
            if isinstance(module, nn.modules.lazy.LazyModuleMixin):
                continue  # drawn at its first call
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        return model

    return build


def _dense(middle: nn.Module) -> Callable[[], nn.Module]:
    return _flat(nn.Linear(4, 6), middle, nn.Linear(6, 3))


def _conv(middle: nn.Module) -> Callable[[], nn.Module]:
    return _flat(nn.Conv2d(1, 4, 3), middle, nn.Flatten(), nn.LazyLinear(3))


def _parametrized(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        type(layer).__name__: (_dense(layer), (6, 4))
        for layer in (
            nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.ELU(), nn.Softplus(), nn.LeakyReLU(),
            nn.Hardswish(), nn.LogSoftmax(1), nn.PReLU(), nn.LayerNorm(6), nn.RMSNorm(6),
            nn.BatchNorm1d(6), nn.Dropout(0.5),
        )
    },
    **{
        type(layer).__name__: (_conv(layer), (4, 1, 6, 6))
        for layer in (
            nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.BatchNorm2d(4), nn.GroupNorm(2, 4),
            nn.InstanceNorm2d(4, affine=True), nn.Upsample(scale_factor=2), nn.PixelShuffle(2),
            nn.ConvTranspose2d(4, 2, 2), nn.LocalResponseNorm(2),
        )
    },
    "grouped_dilated_conv": (_conv(nn.Conv2d(4, 4, 2, groups=2, dilation=2)), (4, 1, 6, 6)),
    "conv1d": (_flat(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)), (5, 2, 6)),
    "batch_norm_untracked": (_dense(nn.BatchNorm1d(6, track_running_stats=False)), (6, 4)),
    "weight_norm": (lambda: _parametrized(parametrizations.weight_norm), (6, 4)),
    "spectral_norm": (lambda: _parametrized(parametrizations.spectral_norm), (6, 4)),
    "lstm": (lambda: Recurrent(nn.LSTM), (4, 3, 4)),
    "gru": (lambda: Recurrent(nn.GRU), (4, 3, 4)),
    "rnn": (lambda: Recurrent(nn.RNN), (4, 3, 4)),
    "transformer": (Attention, (3, 4, 4)),
    "fused_attention": (Fused, (3, 4, 4)),
    "checkpointing": (Checkpointed, (6, 4)),
    "in_place_residual": (InPlace, (6, 4)),
    "bilinear": (lambda: Bilinear(), (6, 4)),
}  # fmt: skip


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, x)


WRONG_IN_TORCH = {"weight_norm"}


def _network(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    build, shape = CASES[name]
    inputs = torch.randn(shape, dtype=torch.float64)
    model = build().double()
    model(inputs)  # lazy layers, running statistics
    return model.eval(), (inputs, torch.arange(shape[0]) % 3)


def _agrees(surface: LossSurface, tolerance: float = 1e-5) -> None:
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(surface.dimension, dtype=torch.float64, generator=generator)
    step = 1e-5
    slope = (surface.gradient_at(step * vector) - surface.gradient_at(-step * vector)) / (2 * step)
    product = surface.hvp(vector)
    assert float((product - slope).norm()) <= tolerance * float(slope.norm()) + 1e-8
    assert float(slope.norm()) > 1e-6


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", CASES)
def test_the_product_agrees_with_central_differences(name: str) -> None:
    model, data = _network(name)
    if name in WRONG_IN_TORCH:
        with pytest.warns(SlowerFormulation):
            surface = LossSurface(model, F.cross_entropy, data)
        wrong = LossSurface(model, F.cross_entropy, data, formulation="double_backward")
        with pytest.raises(AssertionError):  # mended in torch one day: then leave it out of WRONG_IN_TORCH
            _agrees(wrong)
    else:
        surface = LossSurface(model, F.cross_entropy, data)
        assert surface.formulation == "double_backward"
    _agrees(surface)


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:double backward failed")
@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm1d", "lstm", "transformer", "weight_norm"])
def test_gauss_newton_is_the_jacobian_sandwich(name: str) -> None:
    model, (inputs, labels) = _network(name)
    surface = LossSurface(model, F.cross_entropy, (inputs, labels))
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    step = 1e-6

    def outputs(offset: Tensor) -> Tensor:
        with torch.no_grad():
            for p, piece in zip(surface.parameters, surface.split(offset), strict=True):
                p.add_(piece)
        found = next(iter(surface.outputs()))[0].clone()
        with torch.no_grad():
            for p, piece in zip(surface.parameters, surface.split(offset), strict=True):
                p.sub_(piece)
        return found

    pushed = (outputs(step * vector) - outputs(-step * vector)) / (2 * step)
    p = torch.softmax(outputs(torch.zeros_like(vector)), 1)
    form = float(((p * pushed**2).sum(1) - (p * pushed).sum(1) ** 2).mean())
    assert float(vector @ GaussNewton(surface).hvp(vector)) == pytest.approx(form, rel=1e-5)


def test_a_language_model_with_tied_weights_and_a_token_loss() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (4, 5))

    def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.reshape(-1, 7), targets.reshape(-1))

    model = Tokens().double().eval()
    surface = LossSurface(model, token_loss, (tokens, tokens.roll(-1, 1)))
    assert surface.dimension == sum(p.numel() for p in model.parameters())
    _agrees(surface)
    tied = LossSurface(model, token_loss, (tokens, tokens.roll(-1, 1)), params="readout.*")
    assert tied.parameters[0] is model.embedding.weight
    _agrees(tied)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class Detached(OnceOnly):
    """A backward pass whose own derivative is silently incomplete."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * grad


class Custom(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function
        self.hidden, self.readout = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.function.apply(self.hidden(x)))


@pytest.mark.parametrize("function", [OnceOnly, Detached])
def test_a_missing_or_wrong_second_derivative_falls_back_with_one_warning(function: Any) -> None:
    torch.manual_seed(0)
    data = (torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3)
    with pytest.warns(SlowerFormulation, match="central differences"):
        surface = LossSurface(Custom(function).double(), F.cross_entropy, data)
    surface.hvp(torch.ones(surface.dimension, 3, dtype=torch.float64))  # and no second warning
    assert surface.formulation == "central_difference"

    class Cube(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**3

    twin = nn.Sequential(surface.model.hidden, Cube(), surface.model.readout)
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    expected = LossSurface(twin, F.cross_entropy, data).hvp(vector)
    assert torch.allclose(surface.hvp(vector), expected, rtol=1e-4, atol=1e-7)


def test_a_loss_too_rough_for_differences_is_refused_by_name() -> None:
    class Rough(OnceOnly):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return torch.sin(1e9 * x) * grad

    data = (torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3)
    with pytest.raises(InvalidInput, match="no usable second derivative"):
        LossSurface(Custom(Rough).double(), F.cross_entropy, data)
    with pytest.raises(InvalidInput, match="unknown formulation"):
        LossSurface(nn.Linear(4, 3).double(), F.cross_entropy, data, formulation="newton")  # type: ignore[arg-type]
