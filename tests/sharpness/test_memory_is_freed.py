"""What was measured is freed with its last user: cycles through autograd's graphs are never collected."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from sharpbench.models import build_model
from sharpbench.sharpness import MEASURES, LossSurface, measure
from sharpbench.training.batch import mean_cross_entropy


def network(name: str) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    if name == "char_transformer":
        text = torch.randint(0, 10, (4, 6))
        return build_model(name, (6,), 10).eval(), (text, text)
    return build_model(name, (1, 8, 8), 10).eval(), (torch.randn(64, 1, 8, 8), torch.arange(64) % 10)


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "resnet18_narrow", "tiny_vit", "char_transformer"])
def test_a_measured_network_is_freed(name: str) -> None:
    model, data = network(name)
    alive = [weakref.ref(p) for p in model.parameters()]
    card = measure(model, mean_cross_entropy, data, hvps=8, batch_size=32)
    del model, card
    gc.collect()
    assert not any(ref() is not None for ref in alive)


@pytest.mark.parametrize("group", sorted(MEASURES))
def test_every_measure_frees_the_network(group: str) -> None:
    model, data = network("mlp")
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    alive = [weakref.ref(p) for p in model.parameters()]
    card = measure(model, mean_cross_entropy, data, measures=[group], hvps=6, initial=initial)
    del model, card
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_products_by_every_way_free_the_network() -> None:
    for frozen in (False, True):
        model, data = network("mlp")
        if frozen:
            next(model.parameters()).requires_grad_(False)
        alive = [weakref.ref(p) for p in model.parameters()]
        surface = LossSurface(model, mean_cross_entropy, data)
        with surface.session():
            for _ in range(4):
                surface.hvp(torch.randn(surface.dimension))
        del model, surface
        gc.collect()
        assert not any(ref() is not None for ref in alive)
