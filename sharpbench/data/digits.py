"""scikit-learn's digits: 1797 images of 8 x 8, no download."""

from __future__ import annotations

import numpy as np
import torch

from .splits import Dataset, Split


def digits() -> Dataset:
    """898 training and 899 test images, stratified; one fixed split, whatever the run's seed.

    Pixels are 0 to 16. Mean and standard deviation are those of the training pixels.

    >>> data = digits()
    >>> len(data.train), len(data.test), data.shape, data.classes
    (898, 899, (1, 8, 8), 10)
    """
    # Here: with what it imports, a second that commands which load no data should not pay.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    train, test = train_test_split(
        np.arange(len(labels)), train_size=898, stratify=bunch.target, random_state=0
    )
    train, test = torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(test))
    pixels = images[train].double() / 16.0
    return Dataset(
        "digits",
        Split(images[train], labels[train]),
        Split(images[test], labels[test]),
        classes=10,
        scale=16.0,
        mean=(pixels.mean().item(),),
        std=(pixels.std(correction=0).item(),),
    )
