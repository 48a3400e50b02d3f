"""Tiny archives in the true formats, descriptions of them, and a server on this machine that serves them."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from sharpbench.data import PUBLISHED, Archive, Published

TRAIN, TEST = 50, 20
AS_PUBLISHED = dict(PUBLISHED)
Files = dict[str, bytes]


def tiny_images(name: str, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What the tiny archive of ``name`` holds: images (n, c, h, w), labels in turn; the same every time."""
    published = AS_PUBLISHED[name]
    count = TRAIN if split == "train" else TEST
    random = np.random.default_rng([count, published.classes])
    images = random.integers(0, 256, (count, *published.shape), dtype=np.uint8)
    return images, (np.arange(count) * 7 % published.classes).astype(np.int64)


def tar_gz(members: Mapping[str, bytes]) -> bytes:
    """A .tar.gz with these members, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def cifar10_members() -> Files:
    """Five training batches, the test batch, and the two files that nobody reads."""
    folder = "cifar-10-batches-bin"
    members = {f"{folder}/batches.meta.txt": b"airplane\n", f"{folder}/readme.html": b"<p>"}
    images, labels = tiny_images("cifar10", "train")
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
    for number, part in enumerate(np.split(rows, 5), start=1):
        members[f"{folder}/data_batch_{number}.bin"] = part.tobytes()
    images, labels = tiny_images("cifar10", "test")
    rows = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
    return members | {f"{folder}/test_batch.bin": rows.tobytes()}


def cifar100_members() -> Files:
    """Rows of a coarse label (which nobody reads), a fine label and pixels."""
    members = {"cifar-100-binary/fine_label_names.txt": b"apple\n"}
    for split in ("train", "test"):
        images, labels = tiny_images("cifar100", split)
        both = np.stack([labels % 20, labels], axis=1).astype(np.uint8)
        rows = np.concatenate([both, images.reshape(len(images), -1)], axis=1)
        members[f"cifar-100-binary/{split}.bin"] = rows.tobytes()
    return members


def svhn_files() -> Files:
    """MATLAB files: X (h, w, c, n), y (n, 1) with 10 for the digit 0."""
    made = {}
    for split in ("train", "test"):
        images, labels = tiny_images("svhn", split)
        made[f"{split}_32x32.mat"] = mat(images, np.where(labels == 0, 10, labels))
    return made


def mat(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """A MATLAB 5 file with X and y, compressed as SVHN's are."""
    buffer = io.BytesIO()
    savemat(
        buffer,
        {"X": images.transpose(2, 3, 1, 0), "y": labels.astype(np.uint8)[:, None]},
        do_compression=True,
    )
    return buffer.getvalue()


def idx(values: NDArray[np.uint8]) -> bytes:
    """An IDX file, gzipped."""
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
    return gzip.compress(header + values.tobytes(), mtime=0)


def idx_files(name: str) -> Files:
    """The four files of MNIST's names."""
    made = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = tiny_images(name, split)
        made[f"{prefix}-images-idx3-ubyte.gz"] = idx(images[:, 0])
        made[f"{prefix}-labels-idx1-ubyte.gz"] = idx(labels.astype(np.uint8))
    return made


FILES: dict[str, Callable[[], Files]] = {
    "cifar10": lambda: {"cifar-10-binary.tar.gz": tar_gz(cifar10_members())},
    "cifar100": lambda: {"cifar-100-binary.tar.gz": tar_gz(cifar100_members())},
    "svhn": svhn_files,
    "mnist": lambda: idx_files("mnist"),
    "fashion_mnist": lambda: idx_files("fashion_mnist"),
}


def tiny(name: str, files: Files, base: str) -> Published:
    """The published set ``name``, except that it describes these files at this address, and never retries.

    ``monkeypatch.setitem(PUBLISHED, name, tiny(...))`` makes ``load(name)`` find it.
    """
    archives = tuple(
        Archive(file, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
        for file, content in files.items()
    )
    return replace(
        AS_PUBLISHED[name], base=base, archives=archives, train=TRAIN, test=TEST, retries=0, timeout=5.0
    )


class Server:
    """Serves ``files`` below ``address``; ``status``, ``cut`` and ``stall`` make it fail.

    Attributes:
        files: name → content.
        status: of every answer.
        failures: this many answers are 503 first.
        cut: bytes that are promised and not sent.
        stall: while set, nothing is answered.
        asked: the paths that were asked for.
        address: where it listens, ends with a slash.
    """

    def __init__(self) -> None:
        self.files: Files = {}
        self.status = 200
        self.failures = 0
        self.cut = 0
        self.stall = threading.Event()
        self.asked: list[str] = []
        self.address = ""


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine, as long as the block lasts."""
    server = Server()
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            if server.stall.is_set():
                ended.wait(30)
                return
            content = server.files.get(self.path.rpartition("/")[2])
            status = 404 if content is None and server.status == 200 else server.status
            if server.failures:
                server.failures -= 1
                status = 503
            body = content if status == 200 and content is not None else b"no"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: max(len(body) - server.cut, 0)])

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.address = f"http://127.0.0.1:{listener.server_address[1]}/sets/"
    try:
        yield server
    finally:
        ended.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


def write_files(folder: Path, files: Files) -> None:
    """The archives as files, for mirrors that are folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
