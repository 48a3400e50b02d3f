"""Networks by name: what they take, what they give, what they refuse."""

from __future__ import annotations

import pytest
import torch
from model_cases import CLASSES, FAMILIES, NARROW, examples, network
from torch import nn

from sharpbench.errors import InvalidInput
from sharpbench.models import MODELS, CharTransformer, VisionTransformer, build_model
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
    with pytest.raises(InvalidInput, match="width must be a multiple of heads = 4, but got 6"):
        CharTransformer(8, 5, width=6, heads=4)
    with pytest.raises(InvalidInput, match="texts of at most 8 tokens, but got 9"):
        CharTransformer(8, 5)(torch.zeros(1, 9, dtype=torch.int64))


def test_no_token_sees_the_future() -> None:
    model = network("char_transformer").double()
    text, _ = examples("char_transformer")
    changed = text.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % CLASSES
    difference = (model(text) - model(changed)).abs().amax((0, 2))
    assert not difference[:5].any()
    assert difference[5:].all()


def test_a_shorter_text_gives_the_same_logits() -> None:
    model = network("char_transformer").double()
    text, _ = examples("char_transformer")
    assert torch.allclose(model(text[:, :3]), model(text)[:, :3], rtol=1e-12, atol=0)


def test_attention_is_the_mean_of_values_at_equal_scores() -> None:
    """With a zero query every score is 0, so position t averages the values up to t."""
    torch.manual_seed(0)
    layer = CharTransformer(6, 5, width=8, heads=2, depth=1).blocks[0].attn.double()
    with torch.no_grad():
        layer.qkv.weight[:8] = 0
        layer.qkv.bias[:8] = 0
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    values = x @ layer.qkv.weight[16:].T + layer.qkv.bias[16:]
    means = values.cumsum(1) / torch.arange(1, 7).view(1, 6, 1)
    assert torch.allclose(layer(x, future), layer.proj(means), rtol=1e-10)


def test_attention_agrees_with_torchs_own_layer() -> None:
    torch.manual_seed(0)
    ours = VisionTransformer((1, 8, 8), 5, patch=4, width=12, depth=1, heads=3).blocks[0].attn.double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], rtol=1e-10)


def test_a_tied_readout_is_the_embedding() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tied, free = CharTransformer(8, 5, tied=True), CharTransformer(8, 5)
    assert tied.head.weight is tied.token_embedding.weight
    assert sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters()) == 5 * 64


def test_a_channel_that_pyramidnet_adds_starts_from_zero() -> None:
    """Additive widening with a shortcut without weights: with a silent body, a block pads and pools only."""
    block = pyramidnet((1, 8, 8), 5, depth=8, alpha=9)[3].double()  # the second block, of stride 2
    nn.init.zeros_(block.norm3.weight)
    x = torch.randn(2, 19, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = block(x)
    assert out.shape == (2, 22, 3, 3)
    assert torch.allclose(out[:, :19], x.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5)), rtol=1e-12)
    assert not out[:, 19:].any()
