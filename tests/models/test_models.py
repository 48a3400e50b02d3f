"""Networks by name: what they take, what they give, what they refuse."""

from __future__ import annotations

import pytest
import torch
from model_cases import CLASSES, FAMILIES, NARROW, examples, network

from sharpbench.errors import InvalidInput
from sharpbench.models import MODELS, build_model
from sharpbench.models.pyramidnet import pyramidnet
from sharpbench.models.wide_resnet import wide_resnet
from sharpbench.training.batch import mean_cross_entropy


def test_every_network_is_a_tested_family_or_has_a_narrow_one_of_the_same_layers() -> None:
    assert set(FAMILIES) | set(NARROW) == set(MODELS)
    for full, narrow in NARROW.items():
        with torch.device("meta"):
            large = build_model(full, MODELS[full].usual, MODELS[full].classes)
        kinds = {type(module) for module in network(narrow).modules()}
        assert {type(module) for module in large.modules()} == kinds, (full, narrow)


@pytest.mark.parametrize("name", [*FAMILIES, "resnet18_imagenet_narrow"])
def test_every_weight_of_every_family_gets_a_gradient(name: str) -> None:
    inputs, labels = examples(name)
    model = network(name)
    logits = model(inputs)
    assert logits.shape == (*labels.shape, CLASSES)
    mean_cross_entropy(logits, labels).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.any(), key


@pytest.mark.parametrize("classes", [10, 100, 1000])
@pytest.mark.parametrize("name", MODELS)
def test_shape_of_the_logits(name: str, classes: int) -> None:
    entry = MODELS[name]
    with torch.device("meta"):  # shapes only: the large networks cost nothing
        model = build_model(name, entry.usual, classes)
        if entry.kind == "tokens":
            assert model(torch.zeros(2, *entry.usual, dtype=torch.int64)).shape == (2, *entry.usual, classes)
        else:
            assert model(torch.zeros(2, *entry.usual)).shape == (2, classes)


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name].kind == "images"])
def test_images_down_to_the_smallest(name: str) -> None:
    side = MODELS[name].smallest
    with torch.device("meta"):
        for channels, height, width in ((1, side, side), (3, side, 2 * side), (4, 2 * side, side)):
            model = build_model(name, (channels, height, width), 7)
            assert model(torch.zeros(2, channels, height, width)).shape == (2, 7)
    if side > 1:
        with pytest.raises(
            InvalidInput, match=rf"^{name} takes images of at least {side}x{side} pixels, but"
        ):
            build_model(name, (3, side - 1, 64), 7)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("mlp", (64,), r"mlp takes images .*but got \(64,\); for tokens take one of: char_transformer"),
        (
            "char_transformer",
            (3, 8, 8),
            r"takes tokens of shape \(length,\), but got \(3, 8, 8\); for images",
        ),
        ("mlp", (8, 8), r"takes images of shape \(channels, height, width\), but got \(8, 8\)$"),
        ("mlp", (1, 0, 8), r"the shape of mlp's images must be of integers >= 1, but got \(1, 0, 8\)"),
        ("mlp", (1, 8.0, 8), r"the shape of mlp's images must be of integers >= 1"),
        ("vit_s16", (3, 224, 225), r"patches of 16x16 pixels.* multiples of 16, but got 224x225"),
        ("tiny_vit", (3, 30, 30), r"patches of 4x4 pixels.* but got 30x30"),
        ("resnet", (3, 32, 32), "unknown model 'resnet'; did you mean 'resnet18'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as raised:
        build_model(name, shape, 10)
    assert "\n" not in str(raised.value)


def test_other_refusals() -> None:
    with pytest.raises(InvalidInput, match="classes must be >= 1, but got 0"):
        build_model("mlp", (1, 8, 8), 0)
    with pytest.raises(InvalidInput, match="depth of a WideResNet must be 6 n"):
        wide_resnet((3, 32, 32), 10, depth=27, widen=1)
    with pytest.raises(InvalidInput, match="depth of a PyramidNet of basic blocks must be 6 n"):
        pyramidnet((3, 32, 32), 10, depth=111, alpha=9)
    with pytest.raises(InvalidInput, match="alpha must be >= 0"):
        pyramidnet((3, 32, 32), 10, depth=20, alpha=-9)
