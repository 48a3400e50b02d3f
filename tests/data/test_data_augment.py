"""Each augmented image is one of the possible ones, and all of them come up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sharpbench.data.augment import Augmentation
from sharpbench.errors import InvalidInput

DTYPES = st.sampled_from([torch.uint8, torch.float32])


def images(count: int, channels: int, side: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 255, (count, channels, side, side + 1), generator=generator).to(dtype)


def augmentation(name: str, seed: int, **settings: int) -> Augmentation:
    return Augmentation([name], torch.Generator().manual_seed(seed), **settings)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(2, 6), st.integers(1, 3), DTYPES, st.integers(0, 99))
def test_a_crop_is_a_window_of_the_padded_image(
    count: int, channels: int, side: int, padding: int, dtype: torch.dtype, seed: int
) -> None:
    x = images(count, channels, side, dtype, seed)
    cropped = augmentation("crop", seed, padding=padding)(x)
    assert cropped.dtype == dtype
    padded = F.pad(x, (padding,) * 4)
    offsets = range(2 * padding + 1)
    for i in range(count):
        windows = [padded[i, :, a : a + side, b : b + side + 1] for a in offsets for b in offsets]
        assert any(torch.equal(cropped[i], window) for window in windows)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(2, 6), DTYPES, st.integers(0, 99))
def test_a_flip_mirrors_or_leaves(
    count: int, channels: int, side: int, dtype: torch.dtype, seed: int
) -> None:
    x = images(count, channels, side, dtype, seed)
    flipped = augmentation("flip", seed)(x)
    for i in range(count):
        assert torch.equal(flipped[i], x[i]) or torch.equal(flipped[i], x[i].flip(2))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(2, 9), st.integers(1, 6), DTYPES, st.integers(0, 99))
def test_a_cutout_is_a_clipped_square(
    count: int, side: int, size: int, dtype: torch.dtype, seed: int
) -> None:
    x = images(count, 2, side, dtype, seed)
    cut = augmentation("cutout", seed, size=size)(x)
    for i in range(count):
        hole = (cut[i] == 0).all(0)
        assert torch.equal(cut[i][:, ~hole], x[i][:, ~hole])
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            length, places = int(line.sum()), line.nonzero().flatten()
            assert int(places[-1] - places[0]) + 1 == length  # without gaps
            at_border = bool(line[0]) or bool(line[-1])
            assert length == size or (at_border and size // 2 <= length + (size % 2 == 0) <= size + 1)


def test_every_place_is_about_equally_likely() -> None:
    x = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    x[:, :, 1, 1] = 1
    crops = augmentation("crop", 0, padding=1)(x).flatten(1).float().mean(0)
    assert crops.tolist() == pytest.approx([1 / 9] * 9, abs=0.015)
    left = torch.zeros(4000, 1, 1, 2)
    left[..., 0] = 1
    assert augmentation("flip", 0)(left)[..., 0].mean().item() == pytest.approx(0.5, abs=0.03)


def test_the_generator_alone_decides() -> None:
    x = images(8, 3, 8, torch.uint8, 0)
    every = ["crop", "flip", "cutout"]
    torch.manual_seed(1)
    one = Augmentation(every, torch.Generator().manual_seed(3), size=3)(x)
    torch.manual_seed(2)
    two = Augmentation(every[::-1], torch.Generator().manual_seed(3), size=3)(x)
    assert torch.equal(one, two)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="unknown augmentation 'crops'; did you mean 'crop'"):
        Augmentation(["crops"], torch.Generator())
