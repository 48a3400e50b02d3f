"""Data sets out of folders: an ImageNet of the user's own, and parquet files as the hub keeps them."""

from __future__ import annotations

import io
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sharpbench.data.decode import Pictures, decoded, picture
from sharpbench.data.imagenet import CHUNK, load_imagenet, read_files
from sharpbench.data.parquet import load_hub, load_parquet
from sharpbench.errors import InvalidInput


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SHARPBENCH_IMAGENET", "SHARPBENCH_HUB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHARPBENCH_DATA", str(tmp_path / "home"))
    return tmp_path / "home"


def pixels(seed: int, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(array: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def tiny_imagenet(root: Path, per_class: int = 3) -> Path:
    """Classes n01, n02, n03, pictures of many sizes, some of them grey."""
    for split, count in (("train", per_class), ("val", 2)):
        for label, name in enumerate(("n01", "n02", "n03")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                array = pixels(100 * label + number, 12 + number % 5, 20 - label)
                if number == 1:
                    array = array[:, :, :1]
                (folder / f"{number:04}.JPEG").write_bytes(encoded(array, "JPEG"))
    (root / "train" / "n01" / "notes.txt").write_text("not a picture")
    return root


def test_an_imagenet_folder(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_imagenet(tmp_path / "imagenet")
    monkeypatch.setenv("SHARPBENCH_IMAGENET", str(root))
    data = load_imagenet("8", workers=1)
    assert data.shape == (3, 8, 8)
    assert data.classes == 3
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    content = (root / "train" / "n02" / "0002.JPEG").read_bytes()
    np.testing.assert_array_equal(data.train.inputs[5].numpy(), picture(content, (3, 8, 8), True))
    # The cache serves when the folder is gone from the machine, for this size only.
    shutil.rmtree(root)
    monkeypatch.delenv("SHARPBENCH_IMAGENET")
    assert torch.equal(load_imagenet("8").train.inputs, data.train.inputs)
    with pytest.raises(InvalidInput, match="set SHARPBENCH_IMAGENET to the folder that holds train/CLASS"):
        load_imagenet("9")


def test_the_centre_is_cut_out_after_the_short_side_is_resized() -> None:
    """A picture of three vertical bands, 30 x 10, at 10: only the middle band is left."""
    bands = np.zeros((10, 30, 3), dtype=np.uint8)
    bands[:, :10], bands[:, 10:20], bands[:, 20:] = 50, 100, 200
    np.testing.assert_array_equal(picture(encoded(bands), (3, 10, 10), True), np.full((3, 10, 10), 100))
    tall = picture(encoded(bands.transpose(1, 0, 2)), (3, 20, 20), True)
    assert tall.shape == (3, 20, 20)
    assert (tall[:, 1:-1] == 100).all()  # the outermost rows mix with their neighbours


def test_processes_decode_what_one_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_imagenet(tmp_path / "imagenet", per_class=CHUNK)
    monkeypatch.setenv("SHARPBENCH_IMAGENET", str(root))
    monkeypatch.setenv("SHARPBENCH_DATA", str(tmp_path / "one"))
    alone = load_imagenet("8", workers=1)
    monkeypatch.setenv("SHARPBENCH_DATA", str(tmp_path / "two"))
    both = load_imagenet("8", workers=2)
    assert torch.equal(alone.train.inputs, both.train.inputs)
    assert torch.equal(alone.test.labels, both.test.labels)


def test_decoding_goes_on_where_it_was_stopped(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third chunk can't be read; when it can, the first two are not decoded again."""
    root = tiny_imagenet(tmp_path / "imagenet", per_class=CHUNK)
    monkeypatch.setenv("SHARPBENCH_IMAGENET", str(root))
    bad = root / "train" / "n03" / "0007.JPEG"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    with pytest.raises(
        InvalidInput, match="n03/0007.JPEG is not a picture that can be read .* what is decoded"
    ):
        load_imagenet("8", workers=1)
    log = home / "imagenet" / "8" / "train_inputs.partial.log"
    assert log.read_text().splitlines()[1:] == ["0", "1"]
    log.write_text(log.read_text() + "2")  # torn: without its line end it doesn't count
    bad.write_bytes(good)
    # Were the first chunk decoded again, its broken picture would be noticed.
    (root / "train" / "n01" / "0000.JPEG").write_bytes(b"broken")
    data = load_imagenet("8", workers=1)
    np.testing.assert_array_equal(data.train.inputs[2 * CHUNK + 7].numpy(), picture(good, (3, 8, 8), True))
    assert not list(home.rglob("*partial*"))
    # A partial file of other pictures is not gone on with.
    (root / "train" / "n01" / "0000.JPEG").write_bytes(good)
    (root / "train" / "n01" / "0001.JPEG").unlink()
    again = load_imagenet("8", workers=1)
    assert len(again.train) == 3 * CHUNK - 1
    np.testing.assert_array_equal(again.train.inputs[0].numpy(), picture(good, (3, 8, 8), True))


def test_folders_that_are_no_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "imagenet"
    monkeypatch.setenv("SHARPBENCH_IMAGENET", str(root))

    def refused(said: str, argument: str = "8") -> None:
        with pytest.raises(InvalidInput, match=said):
            load_imagenet(argument, workers=1)

    refused("which has no folder train")
    (root / "train").mkdir(parents=True)
    refused("must hold a folder for each class, at least 2, but has 0")
    shutil.rmtree(root)
    tiny_imagenet(root)
    refused("imagenet's SIZE must be 8 to 1024 pixels, but got '7'", "7")
    refused("imagenet's SIZE must be 8 to 1024 pixels, but got 'large'", "large")
    (root / "val" / "n09").mkdir()
    refused("n09 is a class that .*train doesn't have")
    shutil.rmtree(root / "val")
    refused("which has no folder val")
    (root / "val").mkdir()
    (root / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    refused("must be sorted into val/CLASS/ first")
    for path in (root / "train" / "n02").iterdir():
        path.unlink()
    refused("n02 holds no picture")


def test_a_disk_too_small_for_the_pictures(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(pixels(0, 40, 40)))
    split = Pictures(np.zeros(4, dtype=np.int64), [(1, (path,))] * 4, read_files)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InvalidInput, match="can't write to .*SHARPBENCH_DATA"):
            decoded(home / "x", {}, {"train": split}, (3, 40, 40), resize=False, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = decoded(home / "x", {}, {"train": split}, (3, 40, 40), resize=False, workers=1)
    np.testing.assert_array_equal(found["train_inputs"][3].numpy(), pixels(0, 40, 40).transpose(2, 0, 1))


def write_parquet(
    path: Path, images: list[bytes], labels: list[int], columns: tuple[str, str] = ("img", "label")
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": content, "path": None} for content in images]
    table = pa.table({columns[0]: pictures, columns[1]: pa.array(labels, pa.int64())})
    pq.write_table(table, path, row_group_size=3)


def tiny_parquet(folder: Path, channels: int = 3, columns: tuple[str, str] = ("img", "label")) -> Path:
    for split, count in (("train", 8), ("test", 4)):
        images = [encoded(pixels(number + count, 6, 7, channels)) for number in range(count)]
        write_parquet(
            folder / f"{split}-00000-of-00001.parquet", images, [n % 4 for n in range(count)], columns
        )
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_parquet_folder(tmp_path: Path, channels: int) -> None:
    folder = tiny_parquet(tmp_path / "set", channels)
    data = load_parquet(str(folder), workers=1)
    expected = np.stack([pixels(n + 8, 6, 7, channels).transpose(2, 0, 1) for n in range(8)])
    np.testing.assert_array_equal(data.train.inputs.numpy(), expected)
    assert data.test.labels.tolist() == [0, 1, 2, 3]
    assert (data.classes, data.shape) == (4, (channels, 6, 7))
    assert data.mean == pytest.approx(tuple(expected.mean((0, 2, 3)) / 255))
    assert data.std == pytest.approx(tuple(expected.std((0, 2, 3)) / 255))
    assert load_parquet(f"{folder}:8", workers=1).shape == (3, 8, 8)


def test_the_hub_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setenv("SHARPBENCH_HUB", str(hub))
    tiny_parquet(hub / "uoft-cs" / "cifar100" / "cifar100", columns=("img", "fine_label"))
    data = load_hub("uoft-cs/cifar100", workers=1)
    assert data.name == "hub:uoft-cs/cifar100"
    assert data.train.labels.tolist() == [0, 1, 2, 3] * 2
    # SVHN's repository holds two data sets; the cropped digits are meant.
    svhn = hub / "ufldl-stanford" / "svhn"
    tiny_parquet(svhn / "cropped_digits", columns=("image", "label"))
    tiny_parquet(svhn / "full_numbers", columns=("image", "digits"))
    assert len(load_hub("ufldl-stanford/svhn", workers=1).test) == 4
    with pytest.raises(InvalidInput, match="holds several data sets; name one of them: .*cropped_digits, "):
        load_parquet(str(svhn), workers=1)
    # ImageNet keeps the labels of its test split secret: validation is what is tested on.
    imagenet = hub / "ILSVRC" / "imagenet-1k"
    tiny_parquet(imagenet / "data", columns=("image", "label"))
    (imagenet / "data" / "test-00000-of-00001.parquet").unlink()
    one = encoded(pixels(0, 9, 30))
    write_parquet(imagenet / "data" / "test-0.parquet", [one], [-1], ("image", "label"))
    write_parquet(imagenet / "data" / "validation-0.parquet", [one, one], [3, 1], ("image", "label"))
    data = load_hub("ILSVRC/imagenet-1k:16", workers=1)
    assert data.test.labels.tolist() == [3, 1]
    assert data.mean == (0.485, 0.456, 0.406)


def test_the_hub_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("cifar10", "../../etc", "a/b/c", "/etc/x", "~/x", ""):
        with pytest.raises(InvalidInput, match="must be written hub:OWNER/NAME"):
            load_hub(wrong)
    # None in sys.modules is how Python itself marks a package that can't be imported.
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InvalidInput, match=r"SHARPBENCH_HUB is not set; .* pip install 'sharpbench\[hub\]'"):
        load_hub("uoft-cs/cifar10")
    monkeypatch.setenv("SHARPBENCH_HUB", str(tmp_path))
    with pytest.raises(InvalidInput, match="uoft-cs/cifar10 is not there"):
        load_hub("uoft-cs/cifar10")


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "set"

    def refused(said: str) -> None:
        with pytest.raises(InvalidInput, match=said):
            load_parquet(str(folder), workers=1)

    refused("is not a folder; write parquet:FOLDER")
    folder.mkdir()
    refused("holds no train.*parquet")
    train, test = folder / "train-0.parquet", folder / "test-0.parquet"
    good = encoded(pixels(0, 6, 6))
    write_parquet(train, [good, good], [0, 1])
    refused("holds no test.*parquet or validation.*parquet with labels")
    write_parquet(test, [good, encoded(pixels(0, 6, 5))], [0, 1])
    refused("test-0.parquet: row 1 of group 0 is 6x5, unlike the first one, 6x6; name a size")
    write_parquet(test, [good, good[:60]], [0, 1])
    refused("row 1 of group 0 is not a picture that can be read")
    write_parquet(test, [good], [2])
    refused("has labels from 2 to 2")
    write_parquet(test, [good], [0], ("photo", "label"))
    refused("has the columns photo, label, but none of img, image")
    test.write_bytes(test.read_bytes()[:-10])
    refused("is not a whole parquet file")
