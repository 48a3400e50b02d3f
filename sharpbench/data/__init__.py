"""Data sets by name; augmentation, label noise, small training sets, validation splits."""

from __future__ import annotations

from .augment import Augmentation
from .corrupt import TrainingSet, flip_labels, stratified_subset, training_set, validation_split
from .places import data_folder
from .published import PUBLISHED, Archive, Published
from .registry import DATASETS, DatasetEntry, dataset_entry, load
from .splits import Dataset, Split

__all__ = [
    "DATASETS",
    "PUBLISHED",
    "Archive",
    "Augmentation",
    "Dataset",
    "DatasetEntry",
    "Published",
    "Split",
    "TrainingSet",
    "data_folder",
    "dataset_entry",
    "flip_labels",
    "load",
    "stratified_subset",
    "training_set",
    "validation_split",
]
