"""ImageNet from the user's own folder: train/CLASS/*.JPEG and val/CLASS/*.JPEG."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import InvalidInput, must_be
from .cache import open_cache, read_manifest
from .decode import Pictures, decoded
from .places import data_folder
from .splits import Dataset, Split

FORM = "imagenet[:SIZE]"
VARIABLE = "SHARPBENCH_IMAGENET"
SIZE = 256
SMALLEST, LARGEST = 8, 1024
SUFFIXES = (".jpeg", ".jpg", ".png")
CHUNK = 64  # pictures decoded between two notes of progress

# Of the training pixels, as everybody's code for ImageNet has it.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def load_imagenet(argument: str = "", *, workers: int | None = None) -> Dataset:
    """The folder that ``SHARPBENCH_IMAGENET`` names, each picture at SIZE x SIZE (256 unless given).

    A picture's short side is brought to SIZE (bilinear, antialiased) and the centre cut out, once: the
    bytes go into a memory-mapped cache below ``SHARPBENCH_DATA`` (n x 3 x SIZE x SIZE: 252 GB for ImageNet
    at 256, 16 GB at 64), decoded by parallel processes. When stopped, it goes on where it was. The classes
    are the folders below train/, in alphabetical order. Where the variable is not set, a finished cache
    serves.

    Args:
        argument: SIZE, in pixels; empty: 256.
        workers: processes that decode; None: as many as there are cores.

    Raises:
        InvalidInput: no such folder, an empty one, a picture that can't be read, another SIZE than 8 to 1024.
    """
    size = picture_size(argument or str(SIZE), "imagenet")
    home = data_folder() / "imagenet" / str(size)
    root = os.environ.get(VARIABLE)
    if root is None:
        manifest = read_manifest(home)
        tensors = open_cache(home, manifest["origin"]) if manifest is not None else None
        if tensors is None:
            raise InvalidInput(
                f"imagenet needs your own copy: set {VARIABLE} to the folder that holds train/CLASS/*.JPEG "
                "and val/CLASS/*.JPEG"
            )
    else:
        folder = Path(root).expanduser()
        names = _classes(folder)
        splits = {split: _list(folder, split, names) for split in ("train", "val")}
        listing = hashlib.sha256()
        for split in splits.values():
            for _, paths in split.chunks:
                listing.update("\n".join(str(path.relative_to(folder)) for path in paths).encode())
        # By name, not by date: a copy of the folder elsewhere is the same data set.
        origin = {"files": listing.hexdigest(), "size": size, "classes": len(names)}
        tensors = decoded(home, origin, splits, (3, size, size), resize=True, workers=workers)
    train = Split(tensors["train_inputs"], tensors["train_labels"])
    test = Split(tensors["val_inputs"], tensors["val_labels"])
    classes = int(train.labels.max()) + 1
    return Dataset(f"imagenet:{size}", train, test, classes, mean=MEAN, std=STD)


def picture_size(text: str, family: str) -> int:
    """SIZE of a name.

    >>> picture_size("64", "imagenet")
    64

    Raises:
        InvalidInput: not a number from 8 to 1024.
    """
    if not text.isdecimal() or not SMALLEST <= int(text) <= LARGEST:
        raise must_be(f"{family}'s SIZE", f"{SMALLEST} to {LARGEST} pixels", text)
    return int(text)


def read_files(paths: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    """Each file's name and content."""
    for path in paths:
        yield str(path), path.read_bytes()


def _classes(folder: Path) -> list[str]:
    train = folder / "train"
    if not train.is_dir():
        raise InvalidInput(f"{VARIABLE} is {folder}, which has no folder train; it must hold train/ and val/")
    names = sorted(entry.name for entry in os.scandir(train) if entry.is_dir())
    if len(names) < 2:
        raise InvalidInput(f"{train} must hold a folder for each class, at least 2, but has {len(names)}")
    return names


def _list(folder: Path, split: str, names: list[str]) -> Pictures:
    """Pictures class by class, sorted by name."""
    place = folder / split
    if not place.is_dir():
        raise InvalidInput(
            f"{VARIABLE} is {folder}, which has no folder {split}; it must hold train/ and val/"
        )
    strangers = {entry.name for entry in os.scandir(place) if entry.is_dir()} - set(names)
    if strangers:
        raise InvalidInput(f"{place / min(strangers)} is a class that {folder / 'train'} doesn't have")
    paths, labels = [], []
    for label, name in enumerate(names):
        if split != "train" and not (place / name).is_dir():
            continue
        found = sorted(
            entry.name for entry in os.scandir(place / name) if entry.name.lower().endswith(SUFFIXES)
        )
        if not found:
            raise InvalidInput(f"{place / name} holds no picture (*.JPEG, *.jpg or *.png)")
        paths += [place / name / each for each in found]
        labels += [label] * len(found)
    if not paths:
        raise InvalidInput(
            f"{place} holds no pictures in folders of classes; ImageNet's validation pictures come loose and "
            "must be sorted into val/CLASS/ first"
        )
    chunks = [tuple(paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK)]
    return Pictures(np.array(labels, dtype=np.int64), [(len(c), c) for c in chunks], read_files)
