"""Images per second of the harness against the loop that everybody copies.

    python benchmarks/training.py [--davda54 DIR] [--rounds N] [--device cuda] [--batch N] [--batches N]

ResNet-18 at CIFAR shapes on synthetic uint8 images, SGD and SAM, pad-crop, flip and normalisation. The plain
loop is a DataLoader with two workers and transforms on single images by Pillow and NumPy, torch's SGD and
davda54/sam; the harness is `sharpbench.training.train` with its data on the device. Each is a process of its
own that keeps its state; they take turns (interleaved, one mini-epoch each), and the medians over the rounds
are compared. On the CPU a third process trains in bfloat16, which the plain loop does not.
Writes benchmarks/results/training.md and .csv.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

RESULTS = Path(__file__).parent / "results"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def synthetic(count: int) -> tuple[Tensor, Tensor]:
    """Images uint8 and labels, the same for both sides."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (count,), generator=generator)


class Images(Dataset[tuple[Tensor, int]]):
    """One image at a time, through Pillow, as torchvision's transforms do it."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.mean = torch.tensor(MEAN).view(3, 1, 1)
        self.std = torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, ImageOps

        image = ImageOps.expand(Image.fromarray(self.images[index]), border=4)
        left, top = (int(torch.randint(0, 9, ())) for _ in range(2))
        image = image.crop((left, top, left + 32, top + 32))
        if torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
        return (pixels - self.mean) / self.std, self.labels[index]


def plain(method: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """The plain loop: one call is one pass over the images."""
    from sharpbench.models import build_model

    torch.manual_seed(0)
    model = build_model("resnet18", (3, 32, 32), 10).to(arguments.device)
    images, labels = synthetic(arguments.batch * arguments.batches)
    loader = DataLoader(
        Images(images, labels), arguments.batch, shuffle=True, num_workers=2, drop_last=True,
        persistent_workers=True, pin_memory=arguments.device == "cuda",
    )  # fmt: skip
    settings: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    if method == "sam":
        sys.path.insert(0, str(arguments.davda54))
        optimizer = importlib.import_module("sam").SAM(
            model.parameters(), torch.optim.SGD, rho=0.05, **settings
        )
    else:
        optimizer = torch.optim.SGD(model.parameters(), **settings)

    def epoch() -> None:
        model.train()
        total = 0.0
        for batch in loader:
            x, y = (part.to(arguments.device, non_blocking=True) for part in batch)
            loss = nn.functional.cross_entropy(model(x), y)
            total += loss.item()
            loss.backward()
            if method == "sam":
                optimizer.first_step(zero_grad=True)
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.second_step(zero_grad=True)
            else:
                optimizer.step()
                optimizer.zero_grad()

    return epoch


def harness(method: str, arguments: argparse.Namespace, precision: str) -> Callable[[], None]:
    """The harness's own loop, one epoch a call."""
    from sharpbench.allocator import keep_freed_memory
    from sharpbench.bench.ready import augmented
    from sharpbench.models import build_model
    from sharpbench.spec import OptimizerSpec, TaskSpec
    from sharpbench.training.feed import Examples
    from sharpbench.training.loop import train

    keep_freed_memory()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    model = build_model("resnet18", (3, 32, 32), 10).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = (part.to(device) for part in synthetic(arguments.batch * arguments.batches))
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    task = TaskSpec(
        epochs=1, batch_size=arguments.batch, lr=0.05, schedule="constant", precision=precision,
        channels_last=True, augmentation=("crop", "flip"),
    )  # fmt: skip
    stored = Examples(images, labels, prepare=lambda x: (x.float() / 255 - mean) / std, channels_last=True)
    examples = augmented(stored, task, torch.Generator(device).manual_seed(0))
    few = stored.subset(torch.arange(1, device=device))
    parameters = {"rho": 0.05} if method == "sam" else {}
    chosen = OptimizerSpec(name=method, label=method, parameters=parameters)

    def epoch() -> None:
        train(model, task, chosen, 0, examples, few)

    return epoch


def serve(arguments: argparse.Namespace) -> None:
    """A contestant: trains an epoch for every line it reads, and answers with the seconds."""
    side, _, precision = arguments.side.partition(":")
    if side == "plain":
        epoch = plain(arguments.method, arguments)
    else:
        epoch = harness(arguments.method, arguments, precision or "float32")
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--davda54", type=Path, help="folder that holds sam.py of davda54/sam")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments)
        return
    methods = ["sgd", "sam"] if arguments.davda54 else ["sgd"]
    sides = [(s, m) for m in methods for s in ("plain", "harness:float32", "harness:bfloat16")]
    contestants = {key: start(arguments, *key) for key in sides}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in sides}
    for number in range(arguments.rounds + 1):
        for key, process in contestants.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            took = float(process.stdout.readline())
            if number:  # the first round warms up
                seconds[key].append(took)
    for process in contestants.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    images = arguments.batch * arguments.batches
    speed = {key: images / float(np.median(values)) for key, values in seconds.items()}
    table = pd.DataFrame(
        {
            "method": method,
            "loop": side,
            "images_per_second": speed[side, method],
            "times_plain": speed[side, method] / speed["plain", method],
            "steps_of_sgd": speed[side, "sgd"] / speed[side, method],
        }
        for side, method in sides
    )
    print(table.to_string(index=False, float_format="%.3f"))
    write(table, arguments)


def start(arguments: argparse.Namespace, side: str, method: str) -> subprocess.Popen[str]:
    """A contestant's process."""
    command = [sys.executable, __file__, "--side", side, "--method", method, "--device", arguments.device]
    command += ["--batch", str(arguments.batch), "--batches", str(arguments.batches)]
    if arguments.davda54:
        command += ["--davda54", str(arguments.davda54)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def write(table: pd.DataFrame, arguments: argparse.Namespace) -> None:
    """The results files."""
    cuda = arguments.device == "cuda"
    stem = "training_cuda" if cuda else "training"
    device = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{stem}.csv", index=False, float_format="%.4f")
    lines = [
        "# Images per second: the harness and the plain loop\n\n",
        f"ResNet-18, 3x32x32, batch {arguments.batch}; {device}, {torch.get_num_threads()} threads, torch ",
        f"{torch.__version__}; medians of {arguments.rounds} interleaved rounds "
        "(`python benchmarks/training.py`).\n\n",
        "| optimizer | loop | images/s | times the plain loop | cost in SGD steps |\n|---|---|---|---|---|\n",
    ]
    lines += [
        f"| {r.method} | {r.loop} | {r.images_per_second:.1f} | {r.times_plain:.2f} "
        f"| {r.steps_of_sgd:.2f} |\n"
        for r in table.itertuples()
    ]
    (RESULTS / f"{stem}.md").write_text("".join(lines))


if __name__ == "__main__":
    main()
