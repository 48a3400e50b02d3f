"""Networks by name: shapes, gradients, published parameter counts."""

from __future__ import annotations

import pytest
import torch

from sharpbench.errors import InvalidInput
from sharpbench.models import MODELS, build_model, resnet18


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_every_network_maps_images_to_logits_and_learns(name: str, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = build_model(name, shape, 7)
    logits = model(torch.randn(4, *shape))
    assert logits.shape == (4, 7)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_published_parameter_count_of_resnet18() -> None:
    assert sum(p.numel() for p in resnet18((3, 32, 32), 100).parameters()) == 11_220_132


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="unknown model 'resnet'; did you mean 'resnet18'"):
        build_model("resnet", (3, 32, 32), 10)
