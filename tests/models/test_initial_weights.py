"""Initial weights and their names: what papers ask for, and what runs and files rest on."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from model_cases import FAMILIES, network
from torch import nn

from sharpbench.models import MODELS, build_model

# Run directories of earlier versions rest on these: the sum of the weights of seed 0 with random signs.
SEED_0 = {
    "mlp": 21.958986,
    "small_cnn": -21.765657,
    "resnet18": 76.381629,
    "resnet18_narrow": -55.126143,
}


def signed_sum(state: dict[str, torch.Tensor]) -> tuple[float, float]:
    """(sum of all entries, each times 1 or -1 by a fixed draw; their Euclidean norm), in float64."""
    entries = torch.cat([value.double().flatten() for value in state.values()])
    signs = torch.randint(0, 2, entries.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return float(entries @ signs.double()), float(entries.norm())


@pytest.mark.parametrize("name", SEED_0)
def test_initial_weights_of_seed_0_stay(name: str) -> None:
    torch.manual_seed(0)
    found, norm = signed_sum(build_model(name, MODELS[name].usual, 10).state_dict())
    # Processors without AVX2 draw normals that differ by 1.5e-7 of their deviation.
    assert found == pytest.approx(SEED_0[name], rel=0, abs=1e-6 * norm)


def test_uniform_initial_weights_of_seed_0_stay_to_the_bit() -> None:
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for key, value in build_model("mlp", MODELS["mlp"].usual, 10).state_dict().items():
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.numpy().tobytes())
    assert digest.hexdigest() == "ba9e6f0dda7803b587425dcdb08fef2045e870446aebcb50de0e3a1bcc379ffc"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_decides_every_weight(name: str) -> None:
    one, same, other = (network(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    drawn = [key for key in one if one[key].is_floating_point() and one[key].std() > 0]
    assert len(drawn) > 1
    assert not any(torch.equal(one[key], other[key]) for key in drawn)


@pytest.mark.parametrize(
    "name", ["densenet_narrow", "wrn_narrow", "pyramidnet_narrow", "vgg_narrow", "resnet50_narrow"]
)
def test_convolutions_have_the_variance_of_he_with_fan_out(name: str) -> None:
    squares, count = 0.0, 0
    for module in network(name).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            squares += float((module.weight.detach().square() * fan_out / 2).sum())
            count += module.weight.numel()
    # The mean of the squares of N standard normals: 1, give or take sqrt(2 / N).
    assert squares / count == pytest.approx(1.0, abs=4 * math.sqrt(2 / count))


def test_transformers_start_from_truncated_normals() -> None:
    vit = network("tiny_vit", (3, 32, 32)).state_dict()
    assert vit["blocks.0.attn.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert vit["pos_embed"].std().item() == pytest.approx(0.02, rel=0.04)
    # A normal cut at two deviations has .88 of its deviation.
    patches = vit["patch_embed.proj.weight"]
    assert patches.std().item() == pytest.approx(0.88 * 48**-0.5, rel=0.03)
    assert patches.abs().max() <= 2 * 48**-0.5
    text = network("char_transformer", (32,)).state_dict()
    assert text["blocks.1.mlp.fc2.weight"].std().item() == pytest.approx(0.02 / 2, rel=0.02)
    assert text["position_embedding"].std().item() == pytest.approx(0.02, rel=0.05)
    assert all(not v.any() for state in (vit, text) for k, v in state.items() if k.endswith("bias"))


NAMES = {
    "mlp": "4282c952aac259f6",
    "small_cnn": "44890062cc8db26b",
    "resnet18": "b266c8b25fa86e54",
    "resnet18_narrow": "8daaf2e0eb3b8552",
    "densenet121": "a9433264621970d4",
    "densenet_narrow": "0d42d296f0109590",
    "wrn28_10": "3b34f33623a06aaf",
    "wrn_narrow": "ea017c33cb7682fd",
    "pyramidnet110": "b82a9d662a4bfbcc",
    "pyramidnet_narrow": "4fb3a2e0ca8ac6c6",
    "vgg16_bn": "65ce1bb8741d403f",
    "vgg_narrow": "958a47aac207e9eb",
    "resnet18_imagenet": "84fb10d9c6905a1c",
    "resnet50_imagenet": "d7e4f8bb0a536344",
    "resnet50_narrow": "1331932d13b8d15c",
    "vit_s16": "fbab3dc48cc8b516",
    "tiny_vit": "5869f4066c1b8e03",
    "char_transformer": "28edda9b4173712c",
}


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_of_weights_stay(name: str) -> None:
    """A change here makes everyone's checkpoints unreadable."""
    text = "\n".join(f"{key} {tuple(value.shape)}" for key, value in state_on_meta(name).items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == NAMES[name], text


@pytest.mark.parametrize(
    ("name", "keys", "some"),
    [
        ("resnet18_imagenet", 122, {"conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias"}),
        ("resnet50_imagenet", 320, {"bn1.weight", "layer1.0.downsample.0.weight", "layer4.2.conv3.weight"}),
        ("vit_s16", 152, {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.11.mlp.fc2.bias"}),
    ],
)
def test_names_are_those_of_torchvision_and_timm(name: str, keys: int, some: set[str]) -> None:
    state = state_on_meta(name)
    assert len(state) == keys
    assert some <= set(state)


def state_on_meta(name: str) -> dict[str, torch.Tensor]:
    entry = MODELS[name]
    with torch.device("meta"):
        return build_model(name, entry.usual, entry.classes).state_dict()
