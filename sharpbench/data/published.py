"""The published data sets: where each comes from, its checksums, and what it must hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cifar import parse_cifar10, parse_cifar100
from .idx import parse_idx
from .svhn import parse_svhn


class Archive(NamedTuple):
    """One file to download: its name, ``"sha256:…"`` or ``"md5:…"``, and its size in bytes."""

    name: str
    digest: str
    size: int


Arrays = Mapping[str, NDArray[np.uint8] | NDArray[np.int64]]
Parse = Callable[[Mapping[str, Path], "Published"], Arrays]


@dataclass(frozen=True)
class Published:
    """A data set that is downloaded once, checked, and parsed into a cache.

    Attributes:
        name: what suites call it.
        summary: one line about it.
        base: the address that archive names are appended to.
        variable: the environment variable that replaces ``base``: another address, or a folder.
        archives: what is downloaded.
        parse: archive name → path, and this description → ``{train,test}_{inputs,labels}``.
        shape: (channels, height, width).
        classes: number of classes.
        train: number of training images.
        test: number of test images.
        mean: per channel, of the training split's pixels / 255.
        std: the same.
        terms: licence, or terms of use, in a word.
        retries: further attempts after an error of the server or of the connection.
        timeout: seconds to connect, and between two packets; a slow server is not given up, a silent one is.

    >>> PUBLISHED["cifar10"].download
    170052171
    """

    name: str
    summary: str
    base: str
    variable: str
    archives: tuple[Archive, ...]
    parse: Parse
    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    terms: str = ""
    retries: int = 2
    timeout: float = 30.0

    @property
    def download(self) -> int:
        """Bytes of all archives."""
        return sum(archive.size for archive in self.archives)


CIFAR10 = Published(
    name="cifar10",
    summary="CIFAR-10: 32x32 colour photographs of 10 classes",
    base="https://www.cs.toronto.edu/~kriz/",
    variable="SHARPBENCH_MIRROR_CIFAR",
    archives=(
        Archive(
            "cifar-10-binary.tar.gz",
            "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            170_052_171,
        ),
    ),
    parse=parse_cifar10,
    shape=(3, 32, 32),
    classes=10,
    train=50_000,
    test=10_000,
    mean=(0.49139968, 0.48215841, 0.44653091),
    std=(0.24703223, 0.24348513, 0.26158784),
    terms="none stated; cite Krizhevsky 2009",
)

CIFAR100 = Published(
    name="cifar100",
    summary="CIFAR-100: 32x32 colour photographs, the 100 fine classes",
    base="https://www.cs.toronto.edu/~kriz/",
    variable="SHARPBENCH_MIRROR_CIFAR",
    archives=(
        Archive(
            "cifar-100-binary.tar.gz",
            "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            168_513_733,
        ),
    ),
    parse=parse_cifar100,
    shape=(3, 32, 32),
    classes=100,
    train=50_000,
    test=10_000,
    mean=(0.50707516, 0.48654887, 0.44091784),
    std=(0.26733429, 0.25643846, 0.27615047),
    terms="none stated; cite Krizhevsky 2009",
)

SVHN = Published(
    name="svhn",
    summary="Street View House Numbers: 32x32 colour digits, cropped, without the extra set",
    base="http://ufldl.stanford.edu/housenumbers/",
    variable="SHARPBENCH_MIRROR_SVHN",
    archives=(
        Archive("train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794),
        Archive("test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3", 64_275_384),
    ),
    parse=parse_svhn,
    shape=(3, 32, 32),
    classes=10,
    train=73_257,
    test=26_032,
    mean=(0.4376821, 0.4437697, 0.47280442),
    std=(0.19803012, 0.20101562, 0.19703614),
    terms="non-commercial use",
)

MNIST = Published(
    name="mnist",
    summary="MNIST: 28x28 grey handwritten digits",
    base="https://ossci-datasets.s3.amazonaws.com/mnist/",
    variable="SHARPBENCH_MIRROR_MNIST",
    archives=(
        Archive("train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
        Archive("train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432", 28_881),
        Archive("t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3", 1_648_877),
        Archive("t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c", 4_542),
    ),
    parse=parse_idx,
    shape=(1, 28, 28),
    classes=10,
    train=60_000,
    test=10_000,
    mean=(0.13066048,),
    std=(0.3081078,),
    terms="CC BY-SA 3.0",
)

FASHION_MNIST = Published(
    name="fashion_mnist",
    summary="Fashion-MNIST: 28x28 grey pictures of clothes",
    base="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    variable="SHARPBENCH_MIRROR_FASHION_MNIST",
    archives=(
        Archive("train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
        Archive("train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe", 29_515),
        Archive("t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79", 4_422_102),
        Archive("t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310", 5_148),
    ),
    parse=parse_idx,
    shape=(1, 28, 28),
    classes=10,
    train=60_000,
    test=10_000,
    mean=(0.2860406,),
    std=(0.35302424,),
    terms="MIT",
)

# A dict, so that a program can describe a set of its own, and a test a tiny one.
PUBLISHED: dict[str, Published] = {
    published.name: published for published in (CIFAR10, CIFAR100, SVHN, MNIST, FASHION_MNIST)
}
