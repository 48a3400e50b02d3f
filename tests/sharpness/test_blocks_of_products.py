"""A wrong second derivative is found in the tensors that it is wrong for, however small their share."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sharpbench.models.registry import _ENTRIES
from sharpbench.sharpness import LossSurface, SlowerFormulation


class SmallShare(nn.Module):
    """A branch with fused weight norm whose part of the product is small, as in Wav2Vec2's positions."""

    def __init__(self, share: float, kind: str) -> None:
        super().__init__()
        norm = torch.nn.utils.weight_norm if kind == "hook" else parametrizations.weight_norm
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.positions = norm(nn.Conv1d(1, 1, 3, padding=1))
        self.share, self.kind = share, kind
        if kind == "not to be copied":
            self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        hidden = hidden + self.share * self.positions(hidden[:, None])[:, 0]
        return self.last(hidden.float() if self.kind == "casts" else hidden)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("kind", ["parametrization", "hook", "casts", "not to be copied"])
@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-3])
def test_weight_norm_is_found_whatever_its_share(share: float, kind: str) -> None:
    torch.manual_seed(2)
    data = (torch.randn(20, 8), torch.arange(20) % 3)
    with pytest.warns(SlowerFormulation):
        assert LossSurface(SmallShare(share, kind), F.cross_entropy, data).formulation == "central_difference"


class Detached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * grad


def test_a_detached_backward_pass_of_a_small_branch_is_found() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.side = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.main(x) + 1e-3 * Detached.apply(self.side(x))

    torch.manual_seed(0)
    with pytest.warns(SlowerFormulation):
        LossSurface(Branch(), F.cross_entropy, (torch.randn(12, 4), torch.arange(12) % 3))


QUICK = ("mlp", "small_cnn", "vgg_narrow", "tiny_vit", "char_transformer", "resnet50_narrow")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", QUICK)
def test_no_false_alarm_on_registered_networks(name: str, dtype: torch.dtype) -> None:
    entry = next(entry for entry in _ENTRIES if entry.name == name)
    torch.manual_seed(0)
    model = entry.build(entry.usual, entry.classes).to(dtype).eval()
    if entry.kind == "tokens":
        inputs = torch.randint(0, entry.classes, (2, 12))
        targets = inputs.roll(-1, 1)
    else:
        side = min(entry.usual[1], 32)
        inputs, targets = torch.rand(4, entry.usual[0], side, side, dtype=dtype), torch.arange(4)
        inputs[0] = 0  # an empty image puts units on their kinks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        surface = LossSurface(
            model,
            lambda out, y: F.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1)),
            (inputs, targets),
        )
    assert surface.formulation == "double_backward"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    "middle",
    [nn.ReLU(), nn.GELU(), nn.ELU(), nn.Hardswish(), nn.LayerNorm(6), nn.BatchNorm1d(6), nn.GroupNorm(2, 6)],
)
def test_no_false_alarm_on_layers_even_at_their_kinks(
    middle: nn.Module, zeros: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), middle, nn.Linear(6, 3)).to(dtype).eval()
    inputs = torch.randn(10, 4, dtype=dtype)
    if zeros:
        inputs[:5] = 0
        nn.init.zeros_(model[0].bias)
    assert (
        LossSurface(model, F.cross_entropy, (inputs, torch.arange(10) % 3)).formulation == "double_backward"
    )
