"""Published sets in their true formats, over HTTP: what arrives, and what is refused, each in one line."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import FILES, Server, cifar10_members, idx, mat, serving, tar_gz, tiny, tiny_images, write_files
from scipy.io import savemat

from sharpbench.data import PUBLISHED, Published, load
from sharpbench.data.load_published import load_published
from sharpbench.errors import InvalidInput
from sharpbench.models import build_model

CIFAR = "cifar-10-binary.tar.gz"
NOBODY = "http://127.0.0.1:9/"  # port 9 of this machine answers nobody


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SHARPBENCH_DATA", str(tmp_path / "home"))
    for published in PUBLISHED.values():
        monkeypatch.delenv(published.variable, raising=False)
    with serving() as running:
        yield running


def refusal(published: Published, **changes: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        load_published(replace(published, **changes))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", list(FILES))
def test_every_format_arrives_as_it_was_packed(name: str, server: Server) -> None:
    server.files = FILES[name]()
    data = load_published(tiny(name, server.files, server.address))
    for split, tensors in (("train", data.train), ("test", data.test)):
        images, labels = tiny_images(name, split)
        np.testing.assert_array_equal(tensors.inputs.numpy(), images)
        np.testing.assert_array_equal(tensors.labels.numpy(), labels)
    assert data.shape == PUBLISHED[name].shape
    assert data.mean == PUBLISHED[name].mean


def test_a_network_trains_on_cifar_from_an_archive_over_http(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = FILES["cifar10"]()
    monkeypatch.setitem(PUBLISHED, "cifar10", tiny("cifar10", server.files, server.address))
    data = load("cifar10")
    torch.manual_seed(0)
    network = build_model("resnet18", data.shape, data.classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    x, y = data.normalise(data.train.inputs[:8]), data.train.labels[:8]
    loss = torch.nn.functional.cross_entropy(network(x), y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        assert torch.nn.functional.cross_entropy(network(x), y) < loss


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("harm", ["cut", "flip", "grow"])
def test_a_harmed_archive_fails_its_checksum(name: str, harm: str, server: Server) -> None:
    files = FILES[name]()
    published = tiny(name, files, server.address)
    victim, content = next(iter(files.items()))
    middle = len(content) // 2
    harmed = {
        "cut": content[:middle],
        "flip": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "grow": content + b"more",
    }[harm]
    server.files = files | {victim: harmed}
    message = refusal(published)
    said = {"cut": f"truncated ({middle} of", "flip": "it is corrupt", "grow": f"({len(harmed)} bytes)"}
    assert said[harm] in message
    assert published.variable in message
    # Nothing of it stays, so the next attempt succeeds when the server is mended.
    server.files = files
    assert len(load_published(published).train) == 50


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("harm", ["cut", "zeros", "flip"])
def test_bad_bytes_that_pass_the_checksum_are_still_refused(name: str, harm: str, server: Server) -> None:
    def harmed(content: bytes) -> bytes:
        middle = len(content) // 2
        return {
            "cut": content[: len(content) * 3 // 4],
            "zeros": bytes(len(content)),
            "flip": content[:middle] + bytes(64) + content[middle + 64 :],
        }[harm]

    server.files = {file: harmed(content) for file, content in FILES[name]().items()}
    message = refusal(tiny(name, server.files, server.address))
    assert "delete the file and fetch it again" in message


def linked(target: str) -> bytes:
    """A tar.gz whose first member is a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("cifar-10-batches-bin/link")
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        archive.addfile(entry)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        tar_gz({"../escaped.bin": b"x"} | cifar10_members()),
        tar_gz(cifar10_members() | {"a/../../escaped.bin": b"x"}),
        linked("../../outside"),
        linked("/etc/passwd"),
    ],
    ids=["parent", "nested", "link", "absolute link"],
)
def test_members_that_escape_condemn_the_archive(archive: bytes, server: Server, tmp_path: Path) -> None:
    server.files = {CIFAR: archive}
    assert "unsafe member" in refusal(tiny("cifar10", server.files, server.address))
    assert not list(tmp_path.rglob("escaped.bin"))


def test_a_missing_a_short_and_a_doubled_member(server: Server) -> None:
    members = cifar10_members()
    name = "cifar-10-batches-bin/data_batch_3.bin"
    short = members | {name: members[name][:-1]}
    doubled = members | {f"./{name}": members[name]}
    del members[name]
    for packed, said in (
        (members, f"lacks {name}"),
        (short, f"{name} must be one file of 30730 bytes, but has 30729"),
        (doubled, "must be one file"),
    ):
        server.files = {CIFAR: tar_gz(packed)}
        assert said in refusal(tiny("cifar10", server.files, server.address))


def test_an_archive_that_unpacks_to_too_much(server: Server) -> None:
    server.files = {CIFAR: tar_gz({"bomb": bytes(70 * 2**20)})}
    assert "far more than it should" in refusal(tiny("cifar10", server.files, server.address))


def test_labels_out_of_range_and_wrong_counts(server: Server) -> None:
    server.files = FILES["mnist"]()
    published = tiny("mnist", server.files, server.address)
    assert "must be 0 to 8, but go from 0 to 9" in refusal(published, classes=9)
    assert "must unpack to" in refusal(published, train=51)
    assert "must unpack to 7856 bytes, but has more than 7856" in refusal(published, train=10)
    server.files = FILES["svhn"]()
    published = tiny("svhn", server.files, server.address)
    assert "must hold uint8 X (32, 32, 3, 51)" in refusal(published, train=51)
    images, labels = tiny_images("svhn", "train")
    server.files["train_32x32.mat"] = mat(images, labels)  # the digit 0 as 0: not SVHN's labels
    assert "labels must be 1 to 10" in refusal(tiny("svhn", server.files, server.address))
    buffer = io.BytesIO()
    savemat(buffer, {"Z": 1})
    server.files["train_32x32.mat"] = buffer.getvalue()
    assert "lacks X, y" in refusal(tiny("svhn", server.files, server.address))


def test_an_idx_file_of_another_shape(server: Server) -> None:
    server.files = FILES["mnist"]()
    images, _ = tiny_images("mnist", "train")
    server.files["train-images-idx3-ubyte.gz"] = idx(images[:, 0].reshape(50, 14, 56))
    assert "must be IDX of unsigned bytes of shape (50, 28, 28)" in refusal(
        tiny("mnist", server.files, server.address)
    )


def test_answers_of_servers(server: Server) -> None:
    files = FILES["cifar10"]()
    published = tiny("cifar10", files, server.address)
    assert "answers 404; set SHARPBENCH_MIRROR_CIFAR" in refusal(published, retries=3)
    assert len(server.asked) == 1  # a refusal isn't asked for again
    server.files, server.status = files, 503
    assert "the server answers 503; try again later" in refusal(published)
    server.status, server.cut = 200, 100
    assert "the connection ended before the file did" in refusal(published)
    server.cut = 0
    server.files = {CIFAR: files[CIFAR] + bytes(2**21)}
    assert "is far longer than the published" in refusal(published)
    server.stall.set()
    message = refusal(published, timeout=0.3)
    assert "no answer within 0.3 s" in message
    assert "set SHARPBENCH_MIRROR_CIFAR" in message


def test_no_network_and_retries(server: Server) -> None:
    files = FILES["cifar10"]()
    message = refusal(tiny("cifar10", files, NOBODY))
    assert "is there a network?" in message
    assert f"put {CIFAR} into a folder and set SHARPBENCH_MIRROR_CIFAR to it" in message
    server.files, server.failures = files, 1
    assert len(load_published(replace(tiny("cifar10", files, server.address), retries=1)).train) == 50
    assert len(server.asked) == 2


def test_mirrors_are_addresses_or_folders(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = files = FILES["mnist"]()
    published = tiny("mnist", files, NOBODY)
    monkeypatch.setenv(published.variable, server.address.rstrip("/"))
    assert len(load_published(published, tmp_path / "one").train) == 50
    folder = tmp_path / "folder"
    monkeypatch.setenv(published.variable, str(folder))
    assert "must be an address (http://…, https://…) or a folder that exists" in refusal(published)
    folder.mkdir()
    assert f"= {folder} holds no train-images-idx3-ubyte.gz; put it there" in refusal(published)
    write_files(folder, files)
    assert len(load_published(published, tmp_path / "two").train) == 50
    assert not (tmp_path / "two" / "mnist" / "archives").exists()  # used where they are
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"x")
    assert "truncated (1 of" in refusal(published)


def test_pinned_digests_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for published in PUBLISHED.values():
        assert published.base in text
        assert published.variable in text
        for archive in published.archives:
            assert f"`{archive.digest}`" in text
            algorithm, _, digest = archive.digest.partition(":")
            assert len(digest) == hashlib.new(algorithm).digest_size * 2
