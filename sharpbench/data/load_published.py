"""A published data set as a Dataset: downloaded, checked and parsed the first time, mapped afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InvalidInput
from .cache import cached
from .download import fetch_archives
from .places import data_folder
from .published import Arrays, Published
from .splits import Dataset, Split


def load_published(published: Published, folder: Path | None = None, *, progress: bool = False) -> Dataset:
    """The data set, from the cache if it is there, else from its archives, else from the network.

    Args:
        published: what it is, where it comes from, and its checksums.
        folder: of all data sets; None: ``data_folder()``.
        progress: say on stderr what is downloaded.

    Raises:
        InvalidInput: it can't be had, or is not what it should be; the message says how to mend it.
    """
    root = data_folder() if folder is None else folder

    def build() -> Arrays:
        paths = fetch_archives(published, root, progress=progress)
        return checked(published, published.parse(paths, published))

    arrays = cached(root / published.name, origin(published), stored_bytes(published), build)
    return Dataset(
        published.name,
        Split(arrays["train_inputs"], arrays["train_labels"]),
        Split(arrays["test_inputs"], arrays["test_labels"]),
        classes=published.classes,
        scale=255.0,
        mean=published.mean,
        std=published.std,
    )


def origin(published: Published) -> dict[str, str]:
    """What a cache must have been made from: the archives' checksums."""
    return {archive.name: archive.digest for archive in published.archives}


def stored_bytes(published: Published) -> int:
    """Of the parsed arrays."""
    return (published.train + published.test) * (int(np.prod(published.shape)) + 8)


def checked(published: Published, arrays: Arrays) -> Arrays:
    """The arrays, which have the published numbers of rows and labels within range.

    Raises:
        InvalidInput: they don't; the archive is not what its name says.
    """
    for split, count in (("train", published.train), ("test", published.test)):
        inputs, labels = arrays[f"{split}_inputs"], arrays[f"{split}_labels"]
        if len(inputs) != count or len(labels) != count:
            raise InvalidInput(
                f"{published.name}: the {split} split must have {count} rows, but has {len(inputs)} images "
                f"and {len(labels)} labels; is the archive another one?"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= published.classes:
            raise InvalidInput(
                f"{published.name}: labels of the {split} split must be 0 to {published.classes - 1}, but go "
                f"from {low} to {high}; is the archive another one?"
            )
    return arrays
