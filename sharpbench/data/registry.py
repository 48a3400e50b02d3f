"""Data sets by name, and what is known of each before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ..errors import InvalidInput, unknown_name
from .digits import digits
from .imagenet import FORM as IMAGENET
from .imagenet import load_imagenet
from .load_published import load_published
from .parquet import FORM as PARQUET
from .parquet import HUB_FORM as HUB
from .parquet import load_hub, load_parquet
from .published import PUBLISHED
from .splits import Dataset, Kind
from .synthetic import FORM as SYNTHETIC
from .synthetic import parse_synthetic, synthetic
from .text import alice


@dataclass(frozen=True)
class DatasetEntry:
    """A registered data set: how to load it, and what is known beforehand.

    A family stands for many data sets; its names go on after a colon, as ``form`` says.

    Attributes:
        name: what suites call it; of a family, the part before the colon.
        load: the whole name → the data set.
        summary: one line about it.
        kind: images or tokens.
        shape: of one example; None where the name or the files decide.
        classes: number of classes, or the vocabulary; None likewise.
        train: training examples; None likewise.
        test: test examples; None likewise.
        form: how the names of a family are written; empty if the name stands alone.
    """

    name: str
    load: Callable[[str], Dataset]
    summary: str
    kind: Kind = "images"
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    train: int | None = None
    test: int | None = None
    form: str = ""


def _load_published(name: str) -> Dataset:
    return load_published(PUBLISHED[name])


def _load_synthetic(name: str) -> Dataset:
    return synthetic(*parse_synthetic(name))


def _load_plain(load: Callable[[], Dataset], name: str) -> Dataset:
    return load()


def _load_after_colon(load: Callable[[str], Dataset], name: str) -> Dataset:
    return load(name.partition(":")[2])


_ENTRIES = [
    DatasetEntry(
        "digits",
        partial(_load_plain, digits),
        "scikit-learn's 8x8 handwritten digits, 898 training and 899 test images, no download",
        shape=(1, 8, 8),
        classes=10,
        train=898,
        test=899,
    ),
    *(
        DatasetEntry(
            published.name,
            _load_published,
            published.summary,
            shape=published.shape,
            classes=published.classes,
            train=published.train,
            test=published.test,
        )
        for published in PUBLISHED.values()
    ),
    DatasetEntry(
        "alice",
        partial(_load_plain, alice),
        "Alice's Adventures in Wonderland, character by character, windows of 64, no download",
        kind="tokens",
        shape=(64,),
        classes=74,
        train=2138,
        test=237,
    ),
    DatasetEntry(
        "synthetic", _load_synthetic, "made-up images of any shape, learnable, no download", form=SYNTHETIC
    ),
    DatasetEntry(
        "imagenet",
        partial(_load_after_colon, load_imagenet),
        "ImageNet from your own folder ($SHARPBENCH_IMAGENET), resized once; SIZE pixels, 256 unless given",
        form=IMAGENET,
    ),
    DatasetEntry(
        "parquet",
        partial(_load_after_colon, load_parquet),
        "pictures and labels in a folder of train*.parquet and test*.parquet",
        form=PARQUET,
    ),
    DatasetEntry(
        "hub",
        partial(_load_after_colon, load_hub),
        "pictures of the Hugging Face hub: from $SHARPBENCH_HUB, or the network (extra `hub`)",
        form=HUB,
    ),
]

DATASETS: Mapping[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}


def dataset_entry(name: str, where: str = "") -> DatasetEntry:
    """The entry that a name belongs to; nothing is loaded.

    Args:
        name: a registered name, or a family's, as in ``synthetic:3x32x32:10:1000``.
        where: what the message of an error starts with.

    Raises:
        InvalidInput: unknown name, a family without what follows its colon, or that without a family.

    >>> dataset_entry("synthetic:1x8x8:4:100").name
    'synthetic'
    """
    family, colon, _ = name.partition(":")
    place = f"{where}: " if where else ""
    if family not in DATASETS:
        raise unknown_name("dataset", name, DATASETS, where)
    entry = DATASETS[family]
    if not colon and entry.form.startswith(f"{family}:"):
        raise InvalidInput(f"{place}dataset {family!r} is written {entry.form}, but got {name!r}")
    if colon and not entry.form:
        raise InvalidInput(f"{place}dataset {family!r} takes nothing after its name, but got {name!r}")
    if entry.name == "synthetic":
        parse_synthetic(name)
    return entry


def load(name: str) -> Dataset:
    """The data set called ``name``; a published one is downloaded the first time.

    >>> load("digits").shape
    (1, 8, 8)

    Raises:
        InvalidInput: unknown name, or it can't be had; the message says how to mend it.
    """
    return dataset_entry(name).load(name)
