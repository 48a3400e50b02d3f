"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import unknown_name
from .corrupt import TrainingSet, flip_labels, stratified_subset, training_set
from .digits import digits
from .splits import Dataset, Split


@dataclass(frozen=True)
class DatasetEntry:
    """A registered data set: how to load it, and one line about it."""

    name: str
    load: Callable[[], Dataset]
    summary: str


DATASETS: Mapping[str, DatasetEntry] = {
    "digits": DatasetEntry(
        "digits",
        digits,
        "scikit-learn's 8x8 handwritten digits, 898 training and 899 test images, no download",
    )
}


def load(name: str) -> Dataset:
    """The data set called ``name``.

    Raises:
        InvalidInput: unknown name.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return DATASETS[name].load()


__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetEntry",
    "Split",
    "TrainingSet",
    "flip_labels",
    "load",
    "stratified_subset",
    "training_set",
]
