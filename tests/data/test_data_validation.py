"""Validation splits, and what subsets and noise mean for a text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpbench.data.corrupt import TrainingSet, training_set, validation_split
from sharpbench.data.splits import Split
from sharpbench.errors import InvalidInput


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(counts: list[int]) -> Split:
    """So many examples of each class; the pixel is the example's own number."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(0))]
    return Split(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), labels)


TEXT = Split(torch.arange(40).view(10, 4), torch.arange(1, 41).view(10, 4))


def made(train: Split, **changes: float) -> TrainingSet:
    settings = {"label_noise": 0.0, "fraction": 1.0, "validation_fraction": 0.0} | changes
    return training_set(
        train,
        5,
        subset_stream=generator(1),
        noise_stream=generator(2),
        validation_stream=generator(3),
        **settings,  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_a_validation_split_is_stratified_and_disjoint(counts: list[int], fraction: float, seed: int) -> None:
    labels = images(counts).labels
    expected = [min(max(1, round(fraction * count)), count) for count in counts]
    expected = [0 if held == count else held for held, count in zip(expected, counts, strict=True)]
    if sum(expected) == 0:
        with pytest.raises(InvalidInput, match="nothing to hold out"):
            validation_split(labels, fraction, generator(seed))
        return
    rest, held = validation_split(labels, fraction, generator(seed))
    assert torch.equal(torch.cat([rest, held]).sort().values, torch.arange(len(labels)))
    assert torch.bincount(labels[held], minlength=len(counts)).tolist() == expected
    again = validation_split(labels, fraction, generator(seed))
    assert torch.equal(held, again[1])


def test_validation_comes_first_and_stays_clean() -> None:
    """The same examples are held out whatever the noise and the fraction; none of them is trained on."""
    train = images([40, 40, 40, 40, 40])
    plain = made(train, validation_fraction=0.2)
    harder = made(train, validation_fraction=0.2, label_noise=0.5, fraction=0.25)
    assert len(plain.validation_index) == 40
    assert torch.equal(plain.validation_index, harder.validation_index)
    for found, size in ((plain, 160), (harder, 40)):
        assert len(found.index) == size
        assert not torch.isin(found.index, found.validation_index).any()
        assert torch.equal(found.inputs, train.inputs[found.index])
        assert torch.equal(found.clean_labels, train.labels[found.index])
    assert (harder.labels != harder.clean_labels).sum() == 20
    assert torch.bincount(harder.clean_labels).tolist() == [8] * 5


def test_without_validation_nothing_changes() -> None:
    train = images([30, 20, 10])
    found = made(train, fraction=0.5, label_noise=0.2)
    old = training_set(
        train, 5, label_noise=0.2, fraction=0.5, subset_stream=generator(1), noise_stream=generator(2)
    )
    assert torch.equal(found.index, old.index)
    assert torch.equal(found.labels, old.labels)
    assert len(found.validation_index) == len(old.validation_index) == 0


def test_a_whole_split_is_not_copied() -> None:
    train = images([30, 20])
    assert made(train, label_noise=0.2).inputs.data_ptr() == train.inputs.data_ptr()
    assert made(TEXT).labels.data_ptr() == TEXT.labels.data_ptr()


def test_texts_have_subsets_and_validation_but_no_noise() -> None:
    found = made(TEXT, fraction=0.5, validation_fraction=0.2)
    assert len(found.validation_index) == 2
    assert len(found.index) == 4
    assert not torch.isin(found.index, found.validation_index).any()
    assert torch.equal(found.inputs, TEXT.inputs[found.index])
    assert torch.equal(found.labels, found.inputs + 1)
    with pytest.raises(InvalidInput, match="this data set is a text; set label_noise = 0"):
        made(TEXT, label_noise=0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label_noise": 1.0}, "label_noise must be a number >= 0 and < 1"),
        ({"fraction": 0.0}, "train_fraction must be a number > 0 and <= 1"),
        ({"validation_fraction": 1.0}, "validation_fraction must be a number > 0 and < 1"),
        ({"validation_fraction": -0.5}, "validation_fraction must be a number > 0 and < 1"),
    ],
)
def test_shares_out_of_range(changes: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        made(images([5, 5]), **changes)


def test_too_little_to_split() -> None:
    with pytest.raises(InvalidInput, match="leaves nothing to train on or nothing to hold out"):
        made(images([1, 1]), validation_fraction=0.5)
    one = Split(TEXT.inputs[:1], TEXT.labels[:1])
    with pytest.raises(InvalidInput, match="leaves nothing to train on"):
        made(one, validation_fraction=0.5)
    with pytest.raises(InvalidInput, match="needs a validation_stream"):
        training_set(
            TEXT,
            5,
            label_noise=0,
            fraction=1,
            subset_stream=generator(0),
            noise_stream=generator(0),
            validation_fraction=0.5,
        )
