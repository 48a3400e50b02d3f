"""Convolutions and BatchNorm in the forms used while measuring: equal, to the second derivative."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from sharpbench.sharpness import LossSurface, spectrum
from sharpbench.sharpness.convolution import convolve, is_plain_convolution
from sharpbench.sharpness.layers import possible_forms
from sharpbench.sharpness.normalization import normalize

CONVOLUTIONS = {
    "plain": (nn.Conv2d, {"in_channels": 2, "out_channels": 3, "kernel_size": 3}, (2, 2, 5, 5)),
    "strided": (
        nn.Conv2d,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "stride": 2, "padding": 1},
        (2, 2, 5, 5),
    ),
    "grouped_dilated": (
        nn.Conv2d,
        {"in_channels": 4, "out_channels": 4, "kernel_size": 2, "groups": 2, "dilation": 2, "bias": False},
        (2, 4, 5, 5),
    ),
    "one_dimension": (nn.Conv1d, {"in_channels": 2, "out_channels": 3, "kernel_size": 2}, (3, 2, 4)),
    "three_dimensions": (nn.Conv3d, {"in_channels": 1, "out_channels": 2, "kernel_size": 2}, (2, 1, 3, 3, 3)),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_and_its_two_derivatives(name: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    kind, options, shape = CONVOLUTIONS[name]
    layer = kind(**options).double()
    inputs = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(convolve(layer, inputs, channels_last), layer(inputs), atol=1e-12)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        layer_like = kind(**options).double()
        for key, value in zip(dict(layer.named_parameters()), parameters, strict=True):
            delattr(layer_like, key)
            setattr(layer_like, key, value)
        return convolve(layer_like, x, channels_last)

    leaves = (inputs, *layer.parameters())
    assert gradcheck(run, leaves)
    assert gradgradcheck(run, leaves)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 3, 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_and_its_two_derivatives(shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    layer = kind(3, affine=affine).double()
    layer(3 + 2 * torch.randn(shape, dtype=torch.float64))  # moves the running statistics
    layer.eval()
    inputs = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(normalize(layer, inputs), layer(inputs), atol=1e-12)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        like = kind(3, affine=affine).double()
        like.load_state_dict(layer.state_dict())
        for key, value in zip(dict(layer.named_parameters()), parameters, strict=True):
            delattr(like, key)
            setattr(like, key, value)
        return normalize(like, x)

    leaves = (inputs, *layer.parameters())
    assert gradcheck(run, leaves)
    assert gradgradcheck(run, leaves)


def test_what_is_not_a_plain_convolution_keeps_its_own_forward() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert not is_plain_convolution(Doubled(1, 1, 1))
    assert not is_plain_convolution(nn.Conv2d(1, 1, 3, padding="same"))
    assert not is_plain_convolution(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    assert possible_forms(nn.Sequential(Doubled(1, 1, 1), nn.Linear(1, 1))) == ["own"]


class Viewer(nn.Module):
    """Its view of the activations exists in NCHW memory alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(27, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).view(len(x), 27))


class Strided(nn.Module):
    """Reads memory as it lies: another function in another layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.tanh(self.conv(x))
        return found.as_strided((len(x), 4), (found.stride(0), 1))


@pytest.mark.parametrize("kind", [Viewer, Strided])
def test_a_layout_that_a_model_cannot_take_is_not_used(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().double()
    data = (torch.randn(6, 2, 5, 5, dtype=torch.float64), torch.randint(0, 4, (6,)))
    surface = LossSurface(model, F.cross_entropy, data)
    assert surface.form == "cheap"
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    found = surface.hvp(vector)
    surface.form = "own"
    assert torch.allclose(found, surface.hvp(vector), rtol=1e-10, atol=1e-13)


def test_image_networks_are_measured_channels_last_and_left_as_they_were() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    model.eval()
    data = (torch.randn(8, 3, 7, 7, dtype=torch.float64), torch.randint(0, 3, (8,)))
    surface = LossSurface(model, F.cross_entropy, data)
    assert surface.form == "channels_last"
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    found = surface.hvp(vector)
    assert all("forward" not in vars(module) for module in model.modules())
    assert model[0].weight.is_contiguous()
    surface.form = "own"
    assert torch.allclose(found, surface.hvp(vector), rtol=1e-10, atol=1e-13)


def test_one_image_without_a_batch_dimension() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).sum((1, 2))[None]

    torch.manual_seed(0)
    data = (torch.randn(1, 4, 4, dtype=torch.float64), torch.tensor([1]))
    found = spectrum(LossSurface(Single().double(), F.cross_entropy, data), hvps=20)
    assert found.trace().std_error == 0.0
