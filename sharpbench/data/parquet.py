"""Data sets as the Hugging Face hub keeps them: parquet files whose rows hold a picture and a label."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..errors import InvalidInput
from .decode import Pictures, decoded
from .imagenet import MEAN, STD, picture_size
from .moments import pixel_moments
from .places import data_folder
from .splits import Dataset, Split

FORM = "parquet:FOLDER[:SIZE]"
HUB_FORM = "hub:OWNER/NAME[:SIZE]"
VARIABLE = "SHARPBENCH_HUB"
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("fine_label", "label")
# A split to test on, best first; one whose labels are kept secret (-1) is passed over.
TEST_SPLITS = ("test", "validation", "val")
# Repositories that hold more than one data set: the folder that is meant.
PARTS = {"ufldl-stanford/svhn": "cropped_digits"}
IMAGENET = "ILSVRC/imagenet-1k"


def load_parquet(argument: str, *, name: str = "", workers: int | None = None) -> Dataset:
    """Pictures and labels of a folder's files ``train*.parquet`` and ``test*.parquet`` (or ``validation*``).

    The column of pictures is ``img`` or ``image`` (a struct with the file's ``bytes``), of labels
    ``fine_label`` or ``label``. Without SIZE all pictures must be of one size; with it each is brought to
    SIZE x SIZE, as for ImageNet. Mean and standard deviation are those of the training pixels. Decoded
    once, by parallel processes, into a cache below ``SHARPBENCH_DATA``.

    Args:
        argument: FOLDER or FOLDER:SIZE.
        name: what the data set calls itself; empty: ``parquet:`` and the argument.
        workers: processes that decode; None: as many as there are cores.

    Raises:
        InvalidInput: no such folder or files, no such columns, a picture or label that can't be.
    """
    place, size = _with_size(argument)
    folder = Path(place).expanduser()
    if not place or not folder.is_dir():
        raise InvalidInput(f"{place!r} is not a folder; write {FORM}, with train*.parquet in the folder")
    train = _split(_files(folder, "train"))
    test = _test_split(folder)
    classes = int(train.labels.max()) + 1
    for split in (train, test):
        if split.labels.min() < 0 or split.labels.max() >= classes:
            raise InvalidInput(f"{folder} has labels from {split.labels.min()} to {split.labels.max()}")
    shape = (3, size, size) if size else _first_shape(train)
    files = sorted(folder.rglob("*.parquet"))
    stamp = "\n".join(f"{file.relative_to(folder)} {file.stat().st_size}" for file in files)
    origin = {"files": hashlib.sha256(stamp.encode()).hexdigest(), "shape": list(shape)}
    key = hashlib.sha256(f"{name or folder.resolve()}".encode()).hexdigest()[:16]
    tensors = decoded(
        data_folder() / "parquet" / key / ("x".join(str(side) for side in shape)),
        origin,
        {"train": train, "test": test},
        shape,
        resize=size is not None,
        workers=workers,
    )
    inputs = tensors["train_inputs"]
    mean, std = (MEAN, STD) if IMAGENET in name else pixel_moments(inputs)
    return Dataset(
        name or f"parquet:{argument}",
        Split(inputs, tensors["train_labels"]),
        Split(tensors["test_inputs"], tensors["test_labels"]),
        classes,
        mean=mean,
        std=std,
    )


def load_hub(argument: str, *, workers: int | None = None) -> Dataset:
    """A data set of the hub by its id; offline from the folder ``SHARPBENCH_HUB``, if that holds OWNER/NAME.

    Otherwise the repository's parquet files are downloaded by ``huggingface_hub`` (the extra ``hub``), which
    also knows the tokens that gated data sets ask for.

    Args:
        argument: OWNER/NAME or OWNER/NAME:SIZE, as in ``uoft-cs/cifar10`` or ``ILSVRC/imagenet-1k:64``.
        workers: processes that decode.

    Raises:
        InvalidInput: not an id, not to be had, or what ``load_parquet`` refuses.
    """
    hub_id, size = _with_size(argument)
    owner, _, title = hub_id.partition("/")
    if not owner or not title or "/" in title or ".." in hub_id or owner.startswith((".", "~")):
        raise InvalidInput(f"'hub:{argument}' must be written {HUB_FORM}, as in hub:uoft-cs/cifar10")
    local = os.environ.get(VARIABLE)
    folder = Path(local).expanduser() / owner / title if local else None
    if folder is None or not folder.is_dir():
        folder = _download(hub_id, folder)
    if hub_id in PARTS and (folder / PARTS[hub_id]).is_dir():
        folder = folder / PARTS[hub_id]
    return load_parquet(f"{folder}:{size}" if size else str(folder), name=f"hub:{argument}", workers=workers)


def read_rows(chunk: tuple[Path, int, str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each picture of a row group."""
    path, group, column = chunk
    rows = pq.ParquetFile(path).read_row_group(group, columns=[column])[column].to_pylist()
    for number, row in enumerate(rows):
        content = row.get("bytes") if isinstance(row, dict) else row
        yield f"{path}: row {number} of group {group}", content or b""


def _with_size(argument: str) -> tuple[str, int | None]:
    place, colon, tail = argument.rpartition(":")
    return (place, picture_size(tail, place)) if colon and tail.isdecimal() else (argument, None)


def _files(folder: Path, split: str) -> list[Path]:
    found = sorted(folder.rglob(f"{split}*.parquet"))
    if not found:
        raise InvalidInput(f"{folder} holds no {split}*.parquet; is it a data set as the hub keeps it?")
    homes = sorted({path.parent for path in found})
    if len(homes) > 1:
        raise InvalidInput(
            f"{folder} holds several data sets; name one of them: {', '.join(map(str, homes))}"
        )
    return found


def _test_split(folder: Path) -> Pictures:
    for name in TEST_SPLITS:
        if any(folder.rglob(f"{name}*.parquet")):
            split = _split(_files(folder, name))
            if split.labels.min() >= 0:
                return split
    raise InvalidInput(f"{folder} holds no test*.parquet or validation*.parquet with labels")


def _split(files: list[Path]) -> Pictures:
    """Labels are read at once; pictures by row groups, which is how parquet files are cut."""
    labels: list[Any] = []
    chunks: list[tuple[int, Any]] = []
    for path in files:
        try:
            file = pq.ParquetFile(path)
            image = _column(path, file.schema_arrow.names, IMAGE_COLUMNS)
            label = _column(path, file.schema_arrow.names, LABEL_COLUMNS)
            labels += file.read(columns=[label])[label].to_pylist()
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{path} is not a whole parquet file ({error}); fetch it again") from error
        chunks += [(rows, (path, group, image)) for group, rows in enumerate(groups)]
    if not labels or any(not isinstance(value, int) for value in labels):
        raise InvalidInput(f"{files[0].parent} must have a whole number as label of each row, and some rows")
    return Pictures(np.array(labels, dtype=np.int64), chunks, read_rows)


def _column(path: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if name in names:
            return name
    raise InvalidInput(f"{path} has the columns {', '.join(names)}, but none of {', '.join(wanted)}")


def _first_shape(split: Pictures) -> tuple[int, int, int]:
    name, content = next(split.read(split.chunks[0][1]))
    try:
        with Image.open(io.BytesIO(content)) as image:
            return (1 if image.mode in ("1", "L") else 3, image.height, image.width)
    except Exception as error:
        raise InvalidInput(f"{name} is not a picture that can be read ({error})") from error


def _download(hub_id: str, looked: Path | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        where = f"{looked} is not there" if looked else f"{VARIABLE} is not set"
        raise InvalidInput(
            f"hub:{hub_id}: {where}; put the repository's parquet files into FOLDER/{hub_id} and set "
            f"{VARIABLE}=FOLDER, or install the extra to download them: pip install 'sharpbench[hub]'"
        ) from error
    try:
        part = f"{PARTS[hub_id]}/*.parquet" if hub_id in PARTS else "*.parquet"
        return Path(snapshot_download(hub_id, repo_type="dataset", allow_patterns=part))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(
            f"cannot download hub:{hub_id} ({type(error).__name__}: {reason}); check the network and the id, "
            "accept the terms of a gated data set and log in (`hf auth login`), or set "
            f"{VARIABLE} to a folder that holds {hub_id}"
        ) from error
