"""Cutting data into batches never changes the loss: the right weights give it, and others are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import (
    GaussNewton,
    LossDependsOnBatches,
    LossSurface,
    SmallerBatches,
    m_sharpness,
    measure,
    measure_layers,
)
from sharpbench.sharpness.batches import Batch, Batches

CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
Loss = Callable[[Any, Any], Tensor]


def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, weight=CLASS_WEIGHTS)


def summed(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="sum")


def contrastive(outputs: Tensor, labels: Tensor) -> Tensor:
    directions = F.normalize(outputs, dim=1)
    return F.cross_entropy(directions @ directions.T / 0.2, torch.arange(len(outputs)))


def padded(outputs: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), tokens.flatten())


def masked(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error over the targets that are not missing (nan)."""
    known = ~targets.isnan()
    return torch.where(known, outputs - targets.nan_to_num(), 0.0).square().sum() / known.sum()


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.readout = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.embedding(tokens)))


def _classifier() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        inputs = torch.randn(50, 4, dtype=torch.float64)
        labels = torch.randint(0, 3, (50,)).sort().values  # by class, so that batches differ most
    return model, inputs, labels


def _texts() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Tagger().double()
        tokens = torch.randint(0, 7, (12, 6))
    following = tokens.roll(-1, 1)
    for row in range(12):
        following[row, 6 - row // 2 :] = -100
    following[-1] = -100  # a text that is all padding
    return model, tokens, following


def _missing() -> tuple[nn.Module, Tensor, Tensor]:
    model, inputs, _ = _classifier()
    targets = model(inputs).detach()  # a perfect fit: loss and gradient are zero, the Hessian is not
    targets[torch.rand(targets.shape, generator=torch.Generator().manual_seed(3)) < 0.4] = torch.nan
    return model, inputs, targets


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor, Tensor]], Loss, Any]] = {
    "class weights": (_classifier, weighted, lambda x, y: CLASS_WEIGHTS[y].sum()),
    "sum": (_classifier, summed, "sum"),
    "padding": (_texts, padded, lambda x, y: (y != -100).sum()),
    "missing targets": (_missing, masked, lambda x, y: (~y.isnan()).sum()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 11])
def test_with_its_weight_a_loss_is_the_same_however_it_is_cut(case: str, size: int) -> None:
    make, loss_fn, weight = CASES[case]
    model, inputs, targets = make()
    whole = LossSurface(model, loss_fn, (inputs, targets))
    cut = LossSurface(model, loss_fn, (inputs, targets), batch_size=size, weight=weight)
    vector = torch.randn(whole.dimension, 2, dtype=torch.float64)
    assert cut.loss() == pytest.approx(loss_fn(model(inputs), targets).item(), rel=1e-12, abs=1e-14)
    assert torch.allclose(cut.gradient(), whole.gradient(), atol=1e-12)
    assert torch.allclose(cut.hvp(vector), whole.hvp(vector), atol=1e-11)
    assert torch.allclose(cut.losses_at(0.1 * vector), whole.losses_at(0.1 * vector), rtol=1e-12)
    products = [GaussNewton(surface).hvp(vector) for surface in (whole, cut)]
    assert torch.allclose(*products, atol=1e-11)


@pytest.mark.parametrize("case", [*CASES, "contrastive"])
def test_without_it_batch_size_is_refused_with_the_remedy(case: str) -> None:
    make, loss_fn, _ = CASES.get(case, (_classifier, contrastive, None))
    model, inputs, targets = make()
    remedy = 'weight="sum"' if case == "sum" else "contrastive" if case == "contrastive" else "pass weight="
    with pytest.raises(InvalidInput, match=f"batch_size would change the loss.*{remedy}") as refused:
        LossSurface(model, loss_fn, (inputs, targets), batch_size=10)
    assert "\n" not in str(refused.value)


def test_a_rare_class_and_one_ignored_label_are_seen() -> None:
    model, _, _ = _classifier()
    inputs = torch.randn(4000, 4, dtype=torch.float64)
    labels = torch.zeros(4000, dtype=torch.int64)
    for label, loss_fn in ((2, weighted), (-100, F.cross_entropy)):
        rare = labels.clone()
        rare[3210] = label
        with pytest.raises(InvalidInput, match="batch_size would change the loss"):
            LossSurface(model, loss_fn, (inputs, rare), batch_size=500)


def test_halves_that_agree_by_chance_are_no_proof() -> None:
    model, inputs, _ = _classifier()
    balanced = torch.arange(48) % 2
    with pytest.raises(InvalidInput, match="batch_size would change the loss"):
        LossSurface(model, weighted, (inputs[:48], balanced), batch_size=24)


def test_a_model_that_mixes_examples_is_seen() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    _, inputs, labels = _classifier()
    with pytest.raises(InvalidInput, match="batch_size would change the loss"):
        LossSurface(model.double().eval(), F.cross_entropy, (inputs, labels), batch_size=10)


def test_a_loss_inside_the_model_is_compared_through_its_parameters() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _classifier()[0]

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            logits = self.inner(batch["x"])
            return {"loss": weighted(logits, batch["labels"]), "logits": logits}

    _, inputs, labels = _classifier()
    data = ({"x": inputs, "labels": labels}, labels)

    def loss_fn(outputs: dict[str, Tensor], _: Tensor) -> Tensor:
        return outputs["loss"]

    with pytest.raises(InvalidInput, match="batch_size would change the loss"):
        LossSurface(WithLoss(), loss_fn, data, batch_size=10)
    weight = CASES["class weights"][2]
    cut = LossSurface(WithLoss(), loss_fn, data, batch_size=10, weight=weight)
    assert cut.loss() == pytest.approx(LossSurface(WithLoss(), loss_fn, data).loss(), rel=1e-12)


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_a_plain_mean_passes_in_single_precision(loss_fn: Loss) -> None:
    model, inputs, labels = _classifier()
    single = model.float()
    cut = LossSurface(single, loss_fn, (inputs.float(), labels), batch_size=7)
    assert cut.loss() == pytest.approx(loss_fn(single(inputs.float()), labels).item(), rel=1e-6)


class Limited(nn.Module):
    """A limit on how many examples fit in memory."""

    def __init__(self, inner: nn.Module, most: int = 10**9) -> None:
        super().__init__()
        self.inner, self.most = inner, most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(x)} examples")
        return self.inner(x)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("listed", [False, True])
def test_halving_under_memory_pressure_keeps_the_loss(case: str, listed: bool) -> None:
    make, loss_fn, weight = CASES[case]
    model, inputs, targets = make()
    limited = Limited(model)
    half = len(inputs) // 2 + 1
    halves = [(inputs[:half], targets[:half]), (inputs[half:], targets[half:])]
    data = halves if listed else (inputs, targets)
    surface = LossSurface(limited, loss_fn, data, weight=weight)
    vector = torch.randn(surface.dimension, dtype=torch.float64)
    before = [surface.loss(), surface.gradient(), surface.hvp(vector)]
    limited.most = 4
    with pytest.warns(SmallerBatches):
        product = surface.hvp(vector)
    assert surface.loss() == pytest.approx(before[0], rel=1e-12, abs=1e-14)
    assert torch.allclose(surface.gradient(), before[1], atol=1e-12)
    assert torch.allclose(product, before[2], atol=1e-11)


@pytest.mark.parametrize("case", [*CASES, "contrastive"])
def test_where_halves_would_change_the_loss_memory_is_what_runs_out(case: str) -> None:
    make, loss_fn, _ = CASES.get(case, (_classifier, contrastive, None))
    model, inputs, targets = make()
    limited = Limited(model)
    surface = LossSurface(limited, loss_fn, (inputs, targets))
    expected = surface.loss()
    limited.most = len(inputs) // 2
    for evaluate in (surface.gradient, surface.loss):
        with pytest.raises(torch.OutOfMemoryError, match="no room.*can't be cut.*weight=") as raised:
            evaluate()
        assert "\n" not in str(raised.value)
    limited.most = 10**9
    assert surface.loss() == expected


def test_a_list_of_batches_defines_the_loss_and_a_bad_definition_is_said() -> None:
    model, inputs, labels = _classifier()
    batches = [(inputs[:20], labels[:20]), (inputs[20:], labels[20:])]
    with pytest.warns(LossDependsOnBatches, match="depends on how the data were cut"):
        surface = LossSurface(model, weighted, batches)
    parts = [weighted(model(x), y).item() for x, y in batches]
    assert surface.loss() == pytest.approx(0.4 * parts[0] + 0.6 * parts[1], rel=1e-12)
    with pytest.raises(InvalidInput, match='weight="sum"'):
        LossSurface(model, summed, batches)
    joined = LossSurface(model, weighted, batches, weight=lambda x, y: CLASS_WEIGHTS[y].sum())
    assert joined.loss() == pytest.approx(weighted(model(inputs), labels).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("mean", "weight must be"),
        (3.0, "weight must be"),
        (lambda x, y: -1.0, "finite and >= 0"),
        (lambda x, y: float("nan"), "finite and >= 0"),
        (lambda x, y: y, "one number"),
        (lambda x, y: 0.0, "weight above 0"),
        (lambda x, y: 1.0, "adds up to"),
    ],
)
def test_weights_that_are_none_are_refused(weight: Any, message: str) -> None:
    model, inputs, labels = _classifier()
    with pytest.raises(InvalidInput, match=message):
        LossSurface(model, F.cross_entropy, (inputs, labels), batch_size=10, weight=weight)


def test_reductions_must_fit_the_weight() -> None:
    model, inputs, labels = _classifier()
    with pytest.raises(InvalidInput, match='weight="sum"'):
        LossSurface(model, nn.CrossEntropyLoss(reduction="sum"), (inputs, labels))
    with pytest.raises(InvalidInput, match="a sum over the batch"):
        LossSurface(model, nn.CrossEntropyLoss(), (inputs, labels), weight="sum")
    surface = LossSurface(
        model, nn.CrossEntropyLoss(reduction="sum"), (inputs, labels), batch_size=7, weight="sum"
    )
    assert surface.loss() == pytest.approx(summed(model(inputs), labels).item(), rel=1e-12)


def test_cards_and_layers_take_the_weight() -> None:
    model, inputs, labels = _classifier()
    weight = CASES["class weights"][2]
    groups = ("spectrum", "sam_sharpness", "gauss_newton")
    cards = [
        measure(model, weighted, (inputs, labels), measures=groups, batch_size=size, weight=weight)
        for size in (None, 20)
    ]
    values = [card.frame["value"].to_numpy() for card in cards]
    assert list(cards[1].frame["measure"]) == list(cards[0].frame["measure"])
    assert "fisher_trace" not in set(cards[1].frame["measure"])  # of the plain mean only
    assert values[1] == pytest.approx(values[0], rel=1e-9, abs=1e-12)
    frames = [
        measure_layers(model, weighted, (inputs, labels), hvps=6, batch_size=size, weight=weight)
        for size in (None, 20)
    ]
    assert frames[1]["value"].to_numpy() == pytest.approx(frames[0]["value"].to_numpy(), rel=1e-9)


def test_subsets_and_other_statistics_follow_the_examples() -> None:
    model, inputs, labels = _classifier()
    surface = LossSurface(model, summed, (inputs, labels), weight="sum", batch_size=20)
    here = torch.zeros(surface.dimension, 1, dtype=torch.float64)

    def error_rate(batch: Batch) -> Tensor:
        return (model(batch.inputs).argmax(1) != batch.targets).double().mean()

    errors = surface.mean_at(here, error_rate)  # a mean over examples, though the loss is a sum
    assert float(errors) == pytest.approx(float(error_rate(Batch(inputs, labels, 50))))
    part = surface.restricted([next(iter(surface.batches)).first(5)])
    assert part.loss() == pytest.approx(summed(model(inputs[:5]), labels[:5]).item(), rel=1e-12)
    assert m_sharpness(surface, 0.01, m=10).value > 0


def test_uneven_batches_and_zero_weights_in_a_walk() -> None:
    batches = Batches(
        (torch.zeros(5, 2), torch.tensor([1, 0, 0, 1, 1])), 2, torch.device("cpu"), lambda x, y: y.sum()
    )
    assert [(b.count, b.weight) for b in batches] == [(2, 1.0), (2, 1.0), (1, 1.0)]
    pair = (torch.zeros(2, 1), torch.tensor([0, 1]))
    assert [b.weight for b in Batches(pair, 1, torch.device("cpu"), lambda x, y: y.sum())] == [1.0]


def _rank(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        found = {}
        for case, size in (("class weights", None), ("class weights", 7), ("sum", 7)):
            make, loss_fn, weight = CASES[case]
            model, inputs, targets = make()
            mine = slice(0, 19) if rank == 0 else slice(19, 50)
            shard = (inputs[mine], targets[mine])
            surface = LossSurface(model, loss_fn, shard, batch_size=size, weight=weight, distributed=True)
            vector = torch.ones(surface.dimension, dtype=torch.float64)
            found[case, size] = [surface.loss(), surface.hvp(vector)]
        with pytest.raises(InvalidInput, match="would change the loss|another rank"):
            LossSurface(model, weighted, shard, distributed=True)
        torch.save(found, f"{results}{rank}")
    finally:
        dist.destroy_process_group()


def test_shards_have_the_same_weights(tmp_path: Path) -> None:
    mp.spawn(_rank, (str(tmp_path / "store"), str(tmp_path / "found")), nprocs=2)
    for rank in (0, 1):
        for (case, _), (loss, product) in torch.load(tmp_path / f"found{rank}", weights_only=False).items():
            make, loss_fn, _ = CASES[case]
            model, inputs, targets = make()
            whole = LossSurface(model, loss_fn, (inputs, targets))
            assert loss == pytest.approx(whole.loss(), rel=1e-12)
            assert torch.allclose(product, whole.hvp(torch.ones_like(product)), atol=1e-11)
