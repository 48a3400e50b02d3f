"""Images of any shape, made up: for speed benchmarks and tests, and learnable."""

from __future__ import annotations

import re

import torch

from ..errors import InvalidInput
from .splits import Dataset, Split

FORM = "synthetic:CHANNELSxHEIGHTxWIDTH:CLASSES:EXAMPLES"
SEED = 20_240_607
NOISE = 40.0
CONTRAST = 20.0
LARGEST = 2**31  # bytes of both splits


def synthetic(shape: tuple[int, int, int], classes: int, examples: int) -> Dataset:
    """Each class has a mean image; its examples are that image with noise. The same for every call.

    Pixels are 128 + 20 a + 40 e with a (of the class and pixel) and e (of the example and pixel) standard
    normal, rounded and clipped to 0..255. Labels go round the classes, so that all are equally frequent.

    Args:
        shape: (channels, height, width).
        classes: at least 2.
        examples: of the training split; the test split has a quarter of them, at least one of each class.

    Raises:
        InvalidInput: fewer examples than classes, or more than 2 GB.

    >>> data = synthetic((3, 8, 8), classes=4, examples=100)
    >>> len(data.train), len(data.test), data.shape, data.train.labels[:5].tolist()
    (100, 25, (3, 8, 8), [0, 1, 2, 3, 0])
    """
    test = max(examples // 4, classes)
    if min(shape) < 1 or classes < 2 or examples < classes:
        raise InvalidInput(
            f"{FORM} needs sides >= 1, at least 2 classes, and an example of each, but got shape {shape}, "
            f"{classes} classes, {examples} examples"
        )
    if (examples + test) * shape[0] * shape[1] * shape[2] > LARGEST:
        raise InvalidInput(f"{FORM}: at most 2 GB, but {examples} examples of shape {shape} are more")
    generator = torch.Generator().manual_seed(SEED)
    means = 128.0 + CONTRAST * torch.randn(classes, *shape, generator=generator)

    def split(count: int) -> Split:
        labels = torch.arange(count) % classes
        images = torch.empty((count, *shape), dtype=torch.uint8)
        for rows in torch.arange(count).split(4096):  # bounds the memory of the floats
            noise = torch.randn((len(rows), *shape), generator=generator)
            images[rows] = (means[labels[rows]] + NOISE * noise).round().clamp(0, 255).to(torch.uint8)
        return Split(images, labels)

    train = split(examples)
    scaled = train.inputs.double() / 255.0
    return Dataset(
        f"synthetic:{'x'.join(map(str, shape))}:{classes}:{examples}",
        train,
        split(test),
        classes=classes,
        scale=255.0,
        mean=tuple(scaled.mean((0, 2, 3)).tolist()),
        std=tuple(scaled.std((0, 2, 3), correction=0).clamp(min=1 / 255).tolist()),
    )


def parse_synthetic(name: str) -> tuple[tuple[int, int, int], int, int]:
    """Shape, classes and examples of a name like ``synthetic:3x32x32:10:1000``.

    Raises:
        InvalidInput: another form.
    """
    found = re.fullmatch(r"synthetic:(\d{1,5})x(\d{1,5})x(\d{1,5}):(\d{1,6}):(\d{1,9})", name)
    if found is None:
        raise InvalidInput(f"a made-up data set is called {FORM}, but got {name!r}")
    channels, height, width, classes, examples = map(int, found.groups())
    return (channels, height, width), classes, examples
