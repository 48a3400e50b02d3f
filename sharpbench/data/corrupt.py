"""Label noise, small training sets and validation splits: seeded, stratified, and kept for audit."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..checks import check_number
from ..errors import InvalidInput
from .splits import Split


def _nothing() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a run trains on, and what it holds out.

    Attributes:
        index: int64 (n,), positions in the data set's training split, in ascending order.
        inputs: uint8 (n, c, h, w), or int64 (n, length). Where every example is kept, the split's own
            tensor, which may lie over a file larger than memory.
        labels: int64 (n,), or (n, length) for tokens: as trained, noise included.
        clean_labels: the same before the noise.
        validation_index: int64 (m,), positions held out for validation, with their true labels; none of
            them is in ``index``.
    """

    index: Tensor
    inputs: Tensor
    labels: Tensor
    clean_labels: Tensor
    validation_index: Tensor = field(default_factory=_nothing)


def stratified_subset(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Sorted positions of a random ``fraction`` of each class, at least one of each.

    >>> labels = torch.tensor([0] * 10 + [1] * 20)
    >>> kept = stratified_subset(labels, 0.1, torch.Generator().manual_seed(0))
    >>> labels[kept].tolist()
    [0, 1, 1]
    """
    chosen = []
    for label in labels.unique(sorted=True):
        members = (labels == label).nonzero().squeeze(1)
        keep = max(1, round(fraction * len(members)))
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:keep]])
    return torch.cat(chosen).sort().values


def random_subset(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Sorted positions of a random ``fraction`` of all examples, at least one.

    >>> len(random_subset(torch.zeros(20, 8), 0.25, torch.Generator().manual_seed(0)))
    5
    """
    keep = max(1, round(fraction * len(labels)))
    return torch.randperm(len(labels), generator=generator)[:keep].sort().values


def subset(labels: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Stratified by class where an example has one; a text (labels (n, length)) has none: plainly random."""
    pick = stratified_subset if labels.ndim == 1 else random_subset
    return pick(labels, fraction, generator)


def validation_split(labels: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sorted positions to train on, and sorted positions to hold out: ``fraction`` of each class.

    Of each class at least one example is held out, unless it has no other.

    >>> labels = torch.tensor([0] * 10 + [1] * 20)
    >>> rest, held = validation_split(labels, 0.1, torch.Generator().manual_seed(0))
    >>> len(rest), labels[held].tolist()
    (27, [0, 1, 1])

    Raises:
        InvalidInput: fraction outside of (0, 1), or nothing left on one side.
    """
    check_number("validation_fraction", fraction, above=0, below=1)
    held = subset(labels, fraction, generator)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held] = False
    if labels.ndim == 1:
        # A class that would be gone from training keeps its examples.
        gone = ~torch.isin(labels, labels[rest])
        rest |= gone
        held = held[~gone[held]]
    if not rest.any() or not len(held):
        raise InvalidInput(
            f"validation_fraction = {fraction} of {len(labels)} examples leaves nothing to train on or "
            "nothing to hold out; is the data set too small for its number of classes?"
        )
    return rest.nonzero().squeeze(1), held


def flip_labels(labels: Tensor, fraction: float, classes: int, generator: torch.Generator) -> Tensor:
    """Symmetric noise: exactly ``round(fraction n)`` labels become a uniformly random *other* class.

    >>> noisy = flip_labels(torch.zeros(10, dtype=torch.int64), 0.5, 3, torch.Generator().manual_seed(0))
    >>> int((noisy != 0).sum())
    5
    """
    count = round(fraction * len(labels))
    flipped = torch.randperm(len(labels), generator=generator)[:count]
    shift = torch.randint(1, classes, (count,), generator=generator)
    noisy = labels.clone()
    noisy[flipped] = (labels[flipped] + shift) % classes
    return noisy


def training_set(
    train: Split,
    classes: int,
    *,
    label_noise: float,
    fraction: float,
    subset_stream: torch.Generator,
    noise_stream: torch.Generator,
    validation_fraction: float = 0.0,
    validation_stream: torch.Generator | None = None,
) -> TrainingSet:
    """Validation examples are put aside first, a subset is taken of the rest, and that gets the noise.

    So the held-out examples depend on neither the fraction nor the noise, and their labels are true.

    Args:
        train: the data set's training split.
        classes: number of classes.
        label_noise: share of the labels that become another class, in [0, 1); 0 for tokens.
        fraction: share that is trained on, in (0, 1], of what validation leaves.
        subset_stream: draws the subset.
        noise_stream: draws the noise.
        validation_fraction: share of the training split that is held out, in [0, 1).
        validation_stream: draws what is held out; needed if there is such a share.

    Raises:
        InvalidInput: a share out of range, noise asked for a text, no validation_stream.
    """
    check_number("label_noise", label_noise, at_least=0, below=1)
    check_number("train_fraction", fraction, above=0, at_most=1)
    if label_noise and train.kind == "tokens":
        raise InvalidInput(
            f"label_noise = {label_noise} needs examples with one class each, but this data set is a text; "
            "set label_noise = 0"
        )
    index = torch.arange(len(train))
    held = _nothing()
    if validation_fraction:
        if validation_stream is None:
            raise InvalidInput("validation_fraction > 0 needs a validation_stream to draw from")
        index, held = validation_split(train.labels, validation_fraction, validation_stream)
    if fraction < 1.0:
        index = index[subset(train.labels[index], fraction, subset_stream)]
    whole = len(index) == len(train)
    clean = train.labels if whole else train.labels[index]
    labels = flip_labels(clean, label_noise, classes, noise_stream) if train.kind == "images" else clean
    return TrainingSet(index, train.inputs if whole else train.inputs[index], labels, clean, held)
