"""Label noise and subsets: exact counts, other classes only, reproducible, stratified."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpbench.data import DATASETS, Split, flip_labels, load, stratified_subset, training_set
from sharpbench.errors import InvalidInput


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    fraction=st.floats(0, 0.99),
    classes=st.integers(2, 12),
    seed=st.integers(0, 2**31),
)
def test_noise_flips_exactly_its_share_always_to_another_class(
    n: int, fraction: float, classes: int, seed: int
) -> None:
    labels = torch.arange(n) % classes
    noisy = flip_labels(labels, fraction, classes, generator(seed))
    assert (noisy != labels).sum().item() == round(fraction * n)
    assert 0 <= noisy.min()
    assert noisy.max() < classes
    assert torch.equal(noisy, flip_labels(labels, fraction, classes, generator(seed)))


def test_noise_reaches_every_other_class_equally() -> None:
    noisy = flip_labels(torch.zeros(30_000, dtype=torch.int64), 0.99, 4, generator(0))
    counts = torch.bincount(noisy, minlength=4)[1:].double() / 29_700
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.01)


@settings(max_examples=40, deadline=None)
@given(fraction=st.floats(0.01, 1.0), seed=st.integers(0, 2**31))
def test_subsets_are_stratified(fraction: float, seed: int) -> None:
    labels = torch.tensor([0] * 50 + [1] * 100 + [2] * 7)
    kept = stratified_subset(labels, fraction, generator(seed))
    assert kept.unique().numel() == kept.numel()
    for label, size in ((0, 50), (1, 100), (2, 7)):
        assert (labels[kept] == label).sum().item() == max(1, round(fraction * size))


def test_the_training_set_keeps_what_was_changed_for_audit() -> None:
    data = load("digits")
    found = training_set(
        data.train, 10, label_noise=0.5, fraction=0.2, subset_stream=generator(1), noise_stream=generator(2)
    )
    assert torch.equal(found.clean_labels, data.train.labels[found.index])
    assert torch.equal(found.inputs, data.train.inputs[found.index])
    flipped = (found.labels != found.clean_labels).sum().item()
    assert flipped == round(0.5 * len(found.labels))


def test_digits_are_split_once_and_for_all() -> None:
    first, second = load("digits"), load("digits")
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.test.labels, second.test.labels)
    assert len(first.train) + len(first.test) == 1797
    pixels = first.normalise(first.train.inputs)
    assert pixels.mean().abs().item() < 1e-5
    assert pixels.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)


def test_bad_splits_and_names_are_refused() -> None:
    with pytest.raises(InvalidInput, match="inputs must be images"):
        Split(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="labels must be int64"):
        Split(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InvalidInput, match="unknown dataset 'digit'; did you mean 'digits'"):
        load("digit")
    assert all(entry.summary for entry in DATASETS.values())
