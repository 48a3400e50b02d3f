"""Character-level text without a download: Alice's Adventures in Wonderland, in windows of 64."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import torch
from torch import Tensor

from ..errors import InvalidInput
from .splits import Dataset, Split

LENGTH = 64
TRAIN_SHARE = 0.9
SHA256 = "7467306ee0feed4971260f3c87421154a05be571d944e9cb021a5713700c38f0"


def alice() -> Dataset:
    """The text of the Canterbury corpus (public domain), the first 90 % for training.

    A token is a byte's rank among the text's distinct bytes. An example is a window of 64 tokens; its labels
    are the 64 tokens that follow one by one. Windows don't overlap, and no window reaches into the other
    split; a rest shorter than a window is left out.

    >>> data = alice()
    >>> data.kind, data.shape, data.classes, len(data.train), len(data.test)
    ('tokens', (64,), 74, 2138, 237)
    >>> decode(data.train.inputs[0]).strip()[:32]
    "ALICE'S ADVENTURES IN WONDERLAND"
    """
    text = read_text()
    tokens = encode(text)
    cut = int(TRAIN_SHARE * len(tokens))
    return Dataset("alice", windows(tokens[:cut]), windows(tokens[cut:]), classes=len(set(text)))


def windows(tokens: Tensor, length: int = LENGTH) -> Split:
    """Consecutive windows, and the same windows one token later.

    >>> split = windows(torch.arange(8), length=3)
    >>> split.inputs.tolist(), split.labels.tolist()
    ([[0, 1, 2], [3, 4, 5]], [[1, 2, 3], [4, 5, 6]])
    """
    count = (len(tokens) - 1) // length
    return Split(
        tokens[: count * length].view(count, length), tokens[1 : count * length + 1].reshape(count, length)
    )


def read_text() -> bytes:
    """The text that comes with the package.

    Raises:
        InvalidInput: the file was changed (a version control system that rewrites line ends does that).
    """
    path = files("sharpbench.data") / "texts" / "alice29.txt"
    text = path.read_bytes()
    if hashlib.sha256(text).hexdigest() != SHA256:
        raise InvalidInput(f"{path} was changed; install sharpbench again (were its line ends rewritten?)")
    return text


def encode(text: bytes) -> Tensor:
    """int64 (len(text),): each byte's rank in ``alphabet()``."""
    ranks = torch.full((256,), -1, dtype=torch.int64)
    letters = alphabet()
    ranks[torch.tensor(list(letters))] = torch.arange(len(letters))
    return ranks[torch.frombuffer(bytearray(text), dtype=torch.uint8).long()]


def decode(tokens: Tensor) -> str:
    """The characters of some tokens; the text is ASCII but for its end mark."""
    letters = alphabet()
    return bytes(letters[token] for token in tokens.flatten().tolist()).decode("latin-1")


def alphabet() -> bytes:
    """The distinct bytes of the text, sorted: token → byte."""
    return bytes(sorted(set(read_text())))
