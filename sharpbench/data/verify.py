"""Is what lies on this machine what was published? Checksums, counts, labels, mean and deviation again."""

from __future__ import annotations

from pathlib import Path

from ..errors import InvalidInput
from .cache import MANIFEST, damaged, open_cache
from .download import archive_paths, check_archive
from .load_published import checked, origin
from .moments import pixel_moments
from .places import data_folder
from .published import PUBLISHED, Published
from .registry import load
from .splits import Dataset

# The constants are pinned to seven or eight digits.
TOLERANCE = 1e-6


def present(published: Published, folder: Path | None = None) -> bool:
    """Whether a run can start without the network: parsed for these checksums, and not truncated."""
    root = data_folder() if folder is None else folder
    return open_cache(root / published.name, origin(published)) is not None


def verify(name: str, folder: Path | None = None) -> list[str]:
    """What was found right, one line each; archives that were deleted after parsing are not asked for.

    Raises:
        InvalidInput: absent, or something is wrong with it; the line says what, and how to mend it.
    """
    if name not in PUBLISHED:
        return _verify_dataset(load(name))
    published = PUBLISHED[name]
    root = data_folder() if folder is None else folder
    place = root / name
    found = open_cache(place, origin(published))
    if found is None:
        raise InvalidInput(f"{name} is not in {root}, or not whole; get it by `sharpbench data fetch {name}`")
    lines = []
    for archive in published.archives:
        path = archive_paths(published, root)[archive.name]
        if path.is_file():
            check_archive(path, archive)
            lines.append(f"{archive.name}: {archive.digest}")
        else:
            lines.append(f"{archive.name}: not kept (only its parsed arrays are)")
    if wrong := damaged(place):
        raise InvalidInput(
            f"{place}: {', '.join(wrong)} changed since parsing; delete {place / MANIFEST} "
            f"and fetch {name} again"
        )
    lines.append(f"{len(found)} parsed arrays: unchanged since parsing")
    checked(published, {key: tensor.numpy() for key, tensor in found.items()})
    return lines + _verify_dataset(load_from(published, root))


def load_from(published: Published, root: Path) -> Dataset:
    """The data set in a given folder."""
    from .load_published import load_published

    return load_published(published, root)


def _verify_dataset(data: Dataset) -> list[str]:
    lines = [f"{len(data.train)} training and {len(data.test)} test examples of shape {data.shape}"]
    for split in (data.train, data.test):
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= data.classes:
            raise InvalidInput(
                f"{data.name}: labels go from {low} to {high}, not within 0 to {data.classes - 1}"
            )
    lines.append(f"labels within 0 to {data.classes - 1}")
    if data.kind == "tokens":
        return lines
    mean, std = pixel_moments(data.train.inputs, data.scale)
    for what, pinned, again in (("mean", data.mean, mean), ("std", data.std, std)):
        if max(abs(a - b) for a, b in zip(pinned, again, strict=True)) > TOLERANCE:
            raise InvalidInput(
                f"{data.name}: the training pixels have {what} {_digits(again)}, but {_digits(pinned)} is "
                "pinned; if the checksums are right, please report this"
            )
        lines.append(f"{what} {_digits(again)}: as pinned")
    return lines


def _digits(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.8f}" for value in values) + ")"
