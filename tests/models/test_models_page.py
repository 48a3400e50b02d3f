"""docs/models.md says what the networks are; run as a script, this file brings its table up to date."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sharpbench.models import MODELS, build_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = "| name | input | outputs | weights | multiply-adds | |\n|---|---|---|---|---|---|\n"
BEGIN, END = "<!-- TABLE (tests/models/test_models_page.py) -->\n", "<!-- /TABLE -->"


def weights_and_costs(name: str) -> tuple[int, int]:
    """Weights, and multiply-adds of convolutions and matrix products of a forward pass on one input."""
    entry = MODELS[name]
    dtype = torch.int64 if entry.kind == "tokens" else torch.float32
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = build_model(name, entry.usual, entry.classes).eval()
        network(torch.zeros(1, *entry.usual, dtype=dtype))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def table() -> str:
    rows = []
    for name, entry in MODELS.items():
        weights, costs = weights_and_costs(name)
        shape = "×".join(str(size) for size in entry.usual) + (" tokens" if entry.kind == "tokens" else "")
        count = f"{weights:,}".replace(",", " ")
        amount = f"{costs / 1e9:.2f} G" if costs >= 1e8 else f"{costs / 1e6:.2f} M"
        rows.append(f"| `{name}` | {shape} | {entry.classes} | {count} | {amount} | {entry.summary} |\n")
    return HEAD + "".join(rows)


def test_the_table_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = page.split(BEGIN)[1].split(END)[0]
    assert found == table(), "run: python tests/models/test_models_page.py"


def test_the_examples_run() -> None:
    result = doctest.testfile(
        str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert result.attempted > 3
    assert result.failed == 0


def test_every_name_in_the_text_exists() -> None:
    text = PAGE.read_text(encoding="utf-8").split("## Notes")[1]
    named = {name for name in re.findall(r"`(\w+)`", text) if "_" in name or name[-1].isdigit()}
    assert {"resnet18", "tiny_vit", "vit_s16"} <= named
    others = {"state_dict", "stack_module_state", "channels_last", "vit_small_patch16_224", "wide_resnet"}
    assert named <= set(MODELS) | others, named - set(MODELS) - others


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18_imagenet", "1.81"),  # torchvision
        ("resnet50_imagenet", "4.09"),  # torchvision
        ("vit_s16", "4.6"),  # Touvron et al. 2021 (DeiT-S)
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, published: str) -> None:
    digits = len(published.split(".")[1])
    assert f"{weights_and_costs(name)[1] / 1e9:.{digits}f}" == published


def test_multiply_adds_of_a_wide_resnet_and_of_the_character_model_by_hand() -> None:
    pixels, total, before = 32 * 32, 32 * 32 * 9 * 3 * 16, 16
    for width in (160, 320, 640):
        pixels //= 4 if before > 16 else 1
        total += pixels * (9 * before * width + 7 * 9 * width**2 + before * width)
        before = width
    assert weights_and_costs("wrn28_10")[1] == total + 640 * 10
    length, width = 64, 64
    block = length * 12 * width**2 + 2 * length**2 * width  # linear layers; scores, and sums of values
    assert weights_and_costs("char_transformer")[1] == 2 * block + length * width * 65


if __name__ == "__main__":
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.split(END)[1], encoding="utf-8")
