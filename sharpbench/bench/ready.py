"""What a RunSpec stands for, on a device: data, network, random streams."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset, TrainingSet, load, training_set
from ..data.augment import CUTOUT, PADDING, Augmentation
from ..errors import InvalidInput
from ..models import build_model
from ..spec import RunSpec, TaskSpec
from ..training.feed import Examples
from ..training.streams import global_stream, stream, stream_seed

# Below this size, images are normalised once; above, they stay uint8 and every mini-batch is normalised.
NORMALISED_BYTES = 64 * 2**20


@dataclass
class Ready:
    """Everything a run needs before its first step.

    Attributes:
        model: initial weights, on the device.
        train_set: with the task's augmentation, labels as trained.
        test_set: of the data set.
        validation_set: None unless the task holds some of the training split out.
        corrupted: indices and labels, for audit.
        generators: random streams that a checkpoint has to hold.
        initial: the initial weights, by name, kept only if a measure compares with them.
    """

    model: nn.Module
    train_set: Examples
    test_set: Examples
    validation_set: Examples | None
    corrupted: TrainingSet
    generators: dict[str, torch.Generator]
    initial: dict[str, Tensor] | None


@lru_cache(maxsize=4)
def loaded(dataset: str) -> Dataset:
    """The data set; a worker runs many specs on the same."""
    return load(dataset)


def make_ready(spec: RunSpec, device: torch.device) -> Ready:
    """Load, corrupt, initialise: each from a random stream of its own.

    Raises:
        InvalidInput: unknown names, or a data set that can't be had.
    """
    task = spec.task
    data = loaded(task.dataset)
    corrupted = training_set(
        data.train,
        data.classes,
        label_noise=task.label_noise,
        fraction=task.train_fraction,
        subset_stream=stream(spec.seed, "subset"),
        noise_stream=stream(spec.seed, "label_noise"),
        validation_fraction=task.validation_fraction,
        validation_stream=stream(spec.seed, "validation"),
    )
    held = corrupted.validation_index
    with global_stream(spec.seed, "init"):
        model = build_model(task.model, data.shape, data.classes)
    model = model.to(device)
    if task.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generators = {"augmentation": stream(spec.seed, "augmentation", device)} if task.augmentation else {}
    train_set = on_device(data, corrupted.inputs, corrupted.labels, spec, device)
    compares = {"capacity", "pac_bayes"} & set(spec.measure.measures)
    return Ready(
        model=model,
        train_set=augmented(train_set, task, generators.get("augmentation")),
        test_set=on_device(data, data.test.inputs, data.test.labels, spec, device),
        validation_set=on_device(data, data.train.inputs[held], data.train.labels[held], spec, device)
        if len(held)
        else None,
        corrupted=corrupted,
        generators=generators,
        initial={n: p.detach().clone() for n, p in model.named_parameters()} if compares else None,
    )


def on_device(data: Dataset, inputs: Tensor, labels: Tensor, spec: RunSpec, device: torch.device) -> Examples:
    """A split on the device, plain: normalised now if that is small, else mini-batch by mini-batch."""
    inputs, labels = inputs.to(device), labels.to(device)
    # Padding of a crop is black, which is a pixel's 0, not a normalised one's.
    crops = "crop" in spec.task.augmentation
    if inputs.numel() * 4 <= NORMALISED_BYTES and not crops:
        return Examples(data.normalise(inputs), labels, channels_last=spec.task.channels_last)
    return Examples(inputs, labels, prepare=data.normalise, channels_last=spec.task.channels_last)


def augmented(examples: Examples, task: TaskSpec, generator: torch.Generator | None) -> Examples:
    """The examples with the task's augmentation.

    Raises:
        InvalidInput: the examples aren't images.
    """
    if not task.augmentation or generator is None:
        return examples
    if examples.inputs.ndim != 4:
        raise InvalidInput(f"augmentation is for images; {task.dataset!r} holds none: leave it out")
    early = [name for name in task.augmentation if name != "cutout"]
    late = [name for name in task.augmentation if name == "cutout"]
    size = min(CUTOUT, examples.inputs.shape[-1] // 2)
    return replace(
        examples,
        augment=Augmentation(early, generator, padding=crop_padding(examples.inputs)) if early else None,
        late_augment=Augmentation(late, generator, size=size) if late else None,
    )


def crop_padding(inputs: Tensor) -> int:
    """4 pixels for 32, as everybody has it, and in proportion for smaller images."""
    return max(1, min(PADDING, inputs.shape[-1] // 8))


def measure_settings(spec: RunSpec) -> dict[str, Any]:
    """The arguments of ``measure()`` that a RunSpec fixes."""
    return {
        "measures": spec.measure.measures,
        "hvps": spec.measure.hvps,
        "rho": spec.measure.rho,
        "damping": spec.measure.damping,
        "seed": stream_seed(spec.seed, "measure_probes") % 2**31,
    }


def measured_rows(spec: RunSpec, count: int) -> Tensor:
    """Which training examples define the measured surface: a seeded subset."""
    size = min(spec.measure.examples, count)
    return torch.randperm(count, generator=stream(spec.seed, "measure_examples"))[:size]
