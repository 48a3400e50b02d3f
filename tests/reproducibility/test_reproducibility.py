"""docs/reproducibility.md: the same calls give the same bits, other calls the same numbers to rounding."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.bench.artifacts import provenance
from sharpbench.data import flip_labels
from sharpbench.data.augment import Augmentation
from sharpbench.models import build_model
from sharpbench.sharpness import LossSurface
from sharpbench.training.batch import cross_entropy
from sharpbench.training.recorded import RecordedGradient
from sharpbench.training.streams import stream

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("same_calls.py")
# The promise of the document: the norm of the difference, in units of the norm and of machine epsilon.
ROUNDING = 100


def agree_to_rounding(one: Tensor, other: Tensor) -> bool:
    assert one.dtype == other.dtype
    bound = ROUNDING * torch.finfo(one.dtype).eps * max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) <= bound


def surface(name: str, dtype: torch.dtype, batch_size: int = 64, memory: int | None = None) -> LossSurface:
    torch.manual_seed(0)
    model = build_model(name, (1, 8, 8), 10).to(dtype).eval()
    data = (torch.randn(24, 1, 8, 8, dtype=dtype), torch.randint(0, 10, (24,)))
    return LossSurface(model, F.cross_entropy, data, batch_size=batch_size, memory=memory)


@pytest.fixture
def put_threads_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_calls_give_the_same_bits_in_every_process(threads: int) -> None:
    found = []
    for hashing in ("0", "1"):  # the order of sets differs between the two
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hashing}
        environment["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait leave the cores to others
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.splitlines())
    assert len(found[0]) == 4
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["mlp", "small_cnn", "tiny_vit"])
def test_the_same_products_in_the_same_order_are_bitwise_equal(name: str, dtype: torch.dtype) -> None:
    vectors = torch.randn(surface(name, dtype).dimension, 5, dtype=dtype)
    found = []
    for _ in range(2):
        fresh = surface(name, dtype)
        with fresh.session():
            found.append([fresh.hvp(vectors), fresh.hvp(vectors[:, 0]), fresh.gradient()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["mlp", "small_cnn", "tiny_vit"])
def test_other_calls_for_the_same_products_agree_to_rounding(name: str, dtype: torch.dtype) -> None:
    whole = surface(name, dtype)
    vectors = torch.randn(whole.dimension, 5, dtype=dtype)
    block = whole.hvp(vectors)
    columns = torch.stack([whole.hvp(vector) for vector in vectors.T], dim=1)
    with whole.session():  # recorded from the third product on, and replayed after
        in_a_session = torch.stack([whole.hvp(vector) for vector in vectors.T], dim=1)
    batches = surface(name, dtype, batch_size=7)
    rebuilt = surface(name, dtype, batch_size=7, memory=0)  # of four graphs, one is kept at a time
    others = [columns, in_a_session, batches.hvp(vectors), rebuilt.hvp(vectors)]
    for other in others:
        for found, expected in zip(other.T, block.T, strict=True):
            assert agree_to_rounding(found, expected)


@pytest.mark.usefixtures("put_threads_back")
def test_another_number_of_threads_agrees_to_rounding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 10)).double()
    data = (torch.randn(512, 256, dtype=torch.float64), torch.randint(0, 10, (512,)))
    found = {}
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        gradients = [LossSurface(model, F.cross_entropy, data).gradient() for _ in range(2)]
        assert torch.equal(*gradients)
        found[threads] = gradients[0]
    assert agree_to_rounding(found[1], found[2])
    assert agree_to_rounding(found[1], found[3])


def test_a_recorded_gradient_is_used_only_where_it_is_bitwise_autograds() -> None:
    torch.manual_seed(0)
    model = build_model("mlp", (1, 8, 8), 10)
    recorded, x, y = RecordedGradient(model, cross_entropy), torch.randn(20, 64), torch.randint(0, 10, (20,))
    for _ in range(4):
        recorded(x, y)
        found = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        for gradient, p in zip(found, model.parameters(), strict=True):
            assert p.grad is not None
            assert torch.equal(gradient, p.grad)


def test_the_processor_is_the_one_that_is_asked_for() -> None:
    """What the environment asks of PyTorch is what it does: else the repetitions would all be the same."""
    asked = os.environ.get("ATEN_CPU_CAPABILITY")
    found = torch.backends.cpu.get_cpu_capability().lower()
    assert asked is None or found == asked.lower()


def test_choices_that_a_seed_makes_are_the_same_on_every_processor() -> None:
    """Whole numbers and copies: the order of the examples, noisy labels, cropped and flipped images."""
    labels = torch.arange(500) % 10
    images = torch.arange(4 * 64).remainder(7).float().view(4, 1, 8, 8)
    chosen = [
        torch.randperm(1000, generator=stream(0, "order")),
        flip_labels(labels, 0.4, 10, stream(0, "noise")),
        Augmentation(["crop", "flip", "cutout"], stream(0, "augmentation"), padding=1, size=3)(images),
    ]
    found = hashlib.sha256(b"".join(part.long().numpy().tobytes() for part in chosen)).hexdigest()
    assert found == "18adebeff7c96bcedca9c021579e313e8260808570b494afaa349953a99d0ccc"


def test_a_run_says_which_instructions_computed_it() -> None:
    written = provenance(torch.device("cpu"))
    assert written["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert written["threads"] == torch.get_num_threads()


def test_the_tests_that_the_document_names_exist() -> None:
    text = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+/test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 8
    for file, function in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in source, f"{file}::{function}"
