"""Each family's block is its paper's figure: with the last map at zero, only the shortcut is left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharpbench.models.densenet import DenseLayer, transition
from sharpbench.models.resnet_imagenet import Basic, Bottleneck
from sharpbench.models.small import MeanPool
from sharpbench.models.wide_resnet import WideBlock


def test_a_dense_layer_appends_to_its_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, 4)
    out = DenseLayer(6, growth=3)(x)
    assert out.shape == (2, 9, 4, 4)
    assert torch.equal(out[:, :6], x)
    assert transition(9)(out).shape == (2, 4, 2, 2)


def test_a_wide_shortcut_is_the_input_or_a_projection_of_its_activation() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4, 4)
    same = WideBlock(6, 6, stride=1)
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x), x)
    wider = WideBlock(6, 8, stride=2)
    nn.init.zeros_(wider.conv2.weight)
    assert wider.shortcut is not None
    torch.testing.assert_close(wider(x), wider.shortcut(torch.relu(wider.norm1(x))))


def test_post_activation_blocks_add_before_the_last_relu() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 4)
    basic, bottleneck = Basic(8, 8, stride=1), Bottleneck(8, 2, stride=1)
    nn.init.zeros_(basic.bn2.weight)
    nn.init.zeros_(bottleneck.bn3.weight)
    assert torch.equal(basic(x), torch.relu(x))
    assert torch.equal(bottleneck(x), torch.relu(x))
    assert Bottleneck(8, 4, stride=2).conv2.stride == (2, 2)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (2, 3), (14, 14), (20, 20)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_mean_pool_is_average_pooling(height: int, width: int, layout: torch.memory_format) -> None:
    x = torch.randn(3, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = (x.contiguous(memory_format=layout).requires_grad_() for _ in range(2))
    pooled, expected = MeanPool(height, width)(ours), torch.nn.AvgPool2d(2)(theirs)
    torch.testing.assert_close(pooled, expected)
    weights = torch.arange(1.0, 1.0 + expected.numel(), dtype=torch.float64).view(expected.shape)
    for output in (pooled, expected):
        (output * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
