"""Graphs kept within memory, batches halved when it runs out, and the same numbers on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import LossSurface, SmallerBatches, measure, spectrum


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs = torch.randn(23, 6, generator=generator, dtype=torch.float64)
    return model, inputs, torch.randint(0, 3, (23,), generator=generator)


class Counting(nn.Module):
    """How often the network is evaluated, and a limit on how many examples fit."""

    def __init__(self, inner: nn.Module, most: int = 10**9) -> None:
        super().__init__()
        self.inner, self.most, self.calls = inner, most, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(x)} examples")
        return self.inner(x)


def test_graphs_of_several_batches_are_kept_in_a_session_and_freed_after() -> None:
    model, inputs, labels = _problem()
    counting = Counting(model)
    surface = LossSurface(counting, F.cross_entropy, (inputs, labels), batch_size=5)
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    with surface.session():
        first = surface.hvp(vector)
        counting.calls = 0
        assert torch.equal(surface.hvp(vector), first)
        assert counting.calls == 0
        assert len(surface.graphs.kept) == 5
    assert not surface.graphs.kept
    whole = LossSurface(model, F.cross_entropy, (inputs, labels))
    assert torch.allclose(first, whole.hvp(vector), atol=1e-13)


def test_without_memory_graphs_are_rebuilt_and_nothing_else_changes() -> None:
    model, inputs, labels = _problem()
    kept = LossSurface(model, F.cross_entropy, (inputs, labels), batch_size=5)
    poor = LossSurface(model, F.cross_entropy, (inputs, labels), batch_size=5, memory=0)
    vectors = torch.randn(kept.dimension, 3, dtype=torch.float64)
    with poor.session(), kept.session():
        torch.testing.assert_close(kept.hvp(vectors), poor.hvp(vectors), rtol=0, atol=2e-14)
        assert len(poor.graphs.kept) == 1


def test_running_out_of_memory_halves_the_batches_with_one_warning() -> None:
    model, inputs, labels = _problem()
    expected = LossSurface(model, F.cross_entropy, (inputs, labels))
    counting = Counting(model)
    surface = LossSurface(counting, F.cross_entropy, (inputs, labels))
    counting.most = 7
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    with pytest.warns(SmallerBatches, match="memory ran out"):
        product = surface.hvp(vector)
    assert torch.allclose(product, expected.hvp(vector), atol=1e-13)
    assert torch.allclose(surface.gradient(), expected.gradient(), atol=1e-13)  # and no second warning
    assert surface.loss() == pytest.approx(expected.loss(), rel=1e-12)
    counting.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        surface.gradient()


def _rank(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        model, inputs, labels = _problem()
        mine = slice(0, 9) if rank == 0 else slice(9, 23)
        card = measure(
            model, F.cross_entropy, (inputs[mine], labels[mine]), hvps=20, distributed=True,
            measures=(
                "spectrum", "sam_sharpness", "universal", "gauss_newton", "gradient_noise", "pac_bayes",
            ),
        )  # fmt: skip
        torch.save(dict(zip(card.frame["measure"], card.frame["value"], strict=True)), f"{results}{rank}")
        bad = inputs[mine].clone()
        if rank == 1:
            bad[0] = float("nan")
        with pytest.raises(InvalidInput, match="loss is nan" if rank else "another rank"):
            measure(model, F.cross_entropy, (bad, labels[mine]), distributed=True)
    finally:
        dist.destroy_process_group()


def test_two_ranks_with_a_shard_each_measure_what_one_measures(tmp_path: Path) -> None:
    mp.spawn(_rank, (str(tmp_path / "store"), str(tmp_path / "values")), nprocs=2)
    ranks: list[dict[str, Any]] = [torch.load(tmp_path / f"values{r}", weights_only=False) for r in (0, 1)]
    assert ranks[0] == ranks[1]
    model, inputs, labels = _problem()
    alone = measure(
        model, F.cross_entropy, (inputs, labels), hvps=20,
        measures=("spectrum", "sam_sharpness", "universal", "gauss_newton"),
    )  # fmt: skip
    for name, value in zip(alone.frame["measure"], alone.frame["value"], strict=True):
        assert ranks[0][name] == pytest.approx(value, rel=1e-8, abs=1e-10), name


def test_distributed_without_a_process_group_is_refused() -> None:
    model, inputs, labels = _problem()
    with pytest.raises(InvalidInput, match="process group"):
        LossSurface(model, F.cross_entropy, (inputs, labels), distributed=True)


def test_a_warm_start_follows_the_top_eigenvalues(trained: Any) -> None:
    cold = [e.value for e in spectrum(trained.surface, hvps=100, seed=0).top_eigenvalues()]
    earlier = spectrum(trained.surface, hvps=60, seed=1)
    gap = {
        name: max(
            abs(e.value / true - 1)
            for e, true in zip(
                spectrum(trained.surface, hvps=20, seed=2, warm=warm).top_eigenvalues(), cold, strict=True
            )
        )
        for name, warm in {"cold": None, "warm": earlier}.items()
    }
    assert gap["warm"] < 1e-3
    assert gap["warm"] < 0.5 * gap["cold"]
    model, inputs, labels = _problem()
    other = LossSurface(model, F.cross_entropy, (inputs, labels))
    with pytest.raises(InvalidInput, match="warm start"):
        spectrum(other, warm=earlier)
