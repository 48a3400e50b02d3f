"""Products of kept graphs, recorded and replayed: the same numbers as autograd's, to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sharpbench.models import build_model
from sharpbench.sharpness import LossSurface, replay
from sharpbench.sharpness.replay import RECORDED_PRODUCT
from sharpbench.tape import Tape


def _surface(name: str, dtype: torch.dtype, batch_size: int = 64) -> LossSurface:
    torch.manual_seed(0)
    model = build_model(name, (1, 8, 8), 10).to(dtype).eval()
    data = (torch.randn(24, 1, 8, 8, dtype=dtype), torch.randint(0, 10, (24,)))
    return LossSurface(model, nn.functional.cross_entropy, data, batch_size=batch_size)


@pytest.mark.parametrize("name", ["mlp", "small_cnn", "resnet18_narrow", "tiny_vit"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("batch_size", [64, 7])
def test_the_numbers_of_autograd(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, tolerance: float, batch_size: int
) -> None:
    monkeypatch.setattr(replay, "LARGEST", 10**6)
    surface = _surface(name, dtype, batch_size)
    vectors = torch.randn(surface.dimension, 3, dtype=dtype)
    with surface.session():
        expected = surface.hvp(vectors)  # the third of a graph's products is recorded
        for _ in range(2):
            found = surface.hvp(vectors)
            assert float((found - expected).norm()) <= tolerance * float(expected.norm())
        programs = surface.graphs.replays._programs
        assert len(programs) == -(-24 // batch_size)
        assert None not in programs.values()
    assert not programs


def test_weights_that_change_are_seen() -> None:
    surface = _surface("mlp", torch.float64)
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    with surface.session():
        for _ in range(RECORDED_PRODUCT + 1):
            before = surface.hvp(vector)
        with torch.no_grad():
            for p in surface.parameters:
                p.mul_(1.1)
        after = [surface.hvp(vector) for _ in range(RECORDED_PRODUCT + 1)]
    fresh = LossSurface(
        surface.model, nn.functional.cross_entropy, [(b.inputs, b.targets) for b in surface.batches]
    )
    for found in after:
        torch.testing.assert_close(found, fresh.hvp(vector), rtol=1e-10, atol=1e-14)
    assert not torch.allclose(before, after[0])


def test_larger_networks_and_short_sessions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    surface = _surface("mlp", torch.float32)
    vector = torch.randn(surface.dimension)
    for _ in range(3):
        with surface.session():
            for _ in range(RECORDED_PRODUCT - 1):
                surface.hvp(vector)
            assert not surface.graphs.replays._programs
    monkeypatch.setattr(replay, "LARGEST", 10)
    other = _surface("mlp", torch.float32)
    with other.session():
        for _ in range(RECORDED_PRODUCT + 2):
            other.hvp(vector)
        assert not other.graphs.replays._programs


def test_sums_of_matrix_products_are_one_kernel() -> None:
    a, b, c = (torch.randn(4, 4, dtype=torch.float64) for _ in range(3))

    def both(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        once = a @ b
        return [a @ c + b @ c + torch.eye(4, dtype=torch.float64), once + c, once]

    with torch.no_grad(), Tape([a, b, c]) as tape:
        expected = both(a, b, c)
    plain, fused = tape.program(expected), tape.program(expected, fuse=True)
    assert plain is not None
    assert fused is not None
    for found, value in zip(fused(a, b, c), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-14, atol=1e-14)
    kernels = [len([n for n in p.__code__.co_names if n.startswith("f")]) for p in (plain, fused)]
    assert kernels[1] == kernels[0] - 1  # the product that is an output too stays
