"""Label noise and small training sets: seeded, stratified, and kept for audit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .splits import Split


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a run trains on.

    Attributes:
        index: int64 (n,), positions in the data set's training split.
        inputs: uint8 (n, c, h, w), or int64 (n, length).
        labels: int64 (n,), or (n, length) for tokens: as trained, noise included.
        clean_labels: the same before the noise.
    """

    index: Tensor
    inputs: Tensor
    labels: Tensor
    clean_labels: Tensor


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
) -> TrainingSet:
    """The subset first, then the noise on what is left."""
    if fraction < 1.0:
        index = stratified_subset(train.labels, fraction, subset_stream)
    else:
        index = torch.arange(len(train))
    clean = train.labels[index]
    return TrainingSet(
        index, train.inputs[index], flip_labels(clean, label_noise, classes, noise_stream), clean
    )
