"""Data in the forms that people have: each is measured as its plain tensors are, or refused in one line."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import LossSurface

Views = namedtuple("Views", "first second")
Pair = namedtuple("Pair", "inputs targets")
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(9, 2, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(9, 1, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.randint(0, 3, (9,), generator=GENERATOR)
RAGGED = [torch.randn(n, 2, generator=GENERATOR, dtype=torch.float64) for n in (3, 5, 2, 9, 4, 4, 3, 2, 7)]


@dataclass(frozen=True)
class Record:
    first: Tensor
    second: Tensor
    name: str = "record"


class Encoding(UserDict):  # type: ignore[type-arg]
    """As a tokenizer gives it: a mapping that is no dict, and whose ``to`` changes it in place."""

    def to(self, device: Any) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


class TwoViews(nn.Module):
    """A model of two inputs, found in whatever form ``read`` reads them."""

    def __init__(self, read: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.layer, self.read = nn.Linear(2, 1).double(), read

    def forward(self, inputs: Any) -> Tensor:
        first, second = self.read(inputs)
        return self.layer(first) * torch.tanh(self.layer(second))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.readout = nn.GRU(2, 4).double(), nn.Linear(4, 3).double()

    def forward(self, sequences: Any) -> Tensor:
        return self.readout(self.cell(sequences)[1][-1])


class Pooled(nn.Module):
    """Takes a list of sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3).double()

    def forward(self, sequences: Any) -> Tensor:
        return torch.stack([torch.tanh(self.layer(sequence)).mean(0) for sequence in sequences])


def _read_encoding(inputs: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(inputs, Encoding)
    return inputs["first"], inputs["second"]


def _read_dict(inputs: Any) -> tuple[Tensor, Tensor]:
    assert len(inputs["names"]) == len(inputs["first"])
    assert (inputs["scale"], inputs["nothing"]) == (2.0, None)
    return inputs["first"], inputs["second"]


def _read_record(inputs: Any) -> tuple[Tensor, Tensor]:
    return inputs.first, inputs.second


DICT = {"first": X, "second": X + 1, "names": list("abcdefghi"), "scale": 2.0, "nothing": None}
FORMS: dict[str, tuple[Callable[[], nn.Module], Any, Any, Any]] = {
    "named tuple": (lambda: TwoViews(_read_record), Views(X, X + 1), Y, F.mse_loss),
    "dataclass": (lambda: TwoViews(_read_record), Record(X, X + 1), Y, F.mse_loss),
    "mapping": (lambda: TwoViews(_read_encoding), Encoding(first=X, second=X + 1), Y, F.mse_loss),
    "dict with names": (lambda: TwoViews(_read_dict), DICT, Y, F.mse_loss),
    "tuple": (lambda: TwoViews(tuple), (X, X + 1), Y, F.mse_loss),
    "packed": (Recurrent, pack_sequence(RAGGED, enforce_sorted=False), LABELS, F.cross_entropy),
    "ragged list": (Pooled, RAGGED, LABELS, F.cross_entropy),
    "ragged tuple": (Pooled, tuple(RAGGED), LABELS, F.cross_entropy),
    "labels as numbers": (
        Pooled, RAGGED, LABELS.tolist(), lambda out, y: F.cross_entropy(out, torch.tensor(y))
    ),
    "no targets": (lambda: nn.Linear(2, 1).double(), X, None, lambda out, _: out.square().mean()),
    "one target": (
        lambda: nn.Linear(2, 1).double(), X, torch.tensor(0.5), lambda out, y: (out - y).square().mean()
    ),
}  # fmt: skip


def _agree(a: LossSurface, b: LossSurface) -> None:
    vector = torch.ones(a.dimension, dtype=torch.float64)
    assert a.examples == b.examples == 9
    assert a.loss() == pytest.approx(b.loss(), rel=1e-12)
    assert torch.allclose(a.hvp(vector), b.hvp(vector), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_structures_are_measured_and_cut(form: str) -> None:
    make, inputs, targets, loss_fn = FORMS[form]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    whole = LossSurface(model, loss_fn, (inputs, targets))
    assert whole.loss() == pytest.approx(loss_fn(model(inputs), targets).item(), rel=1e-12)
    cut = LossSurface(model, loss_fn, (inputs, targets), batch_size=4)
    assert len(list(cut.batches)) == 3
    _agree(whole, cut)


def test_a_pair_and_batches_may_be_named_tuples() -> None:
    model = nn.Linear(2, 1).double()
    whole = LossSurface(model, F.mse_loss, (X, Y))
    _agree(whole, LossSurface(model, F.mse_loss, Pair(X, Y), batch_size=4))
    _agree(whole, LossSurface(model, F.mse_loss, [Pair(X[:4], Y[:4]), Pair(X[4:], Y[4:])]))


def test_data_are_left_as_they_were() -> None:
    class Marking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.requires_grad_(True))

    encoding = Encoding(first=X.clone(), second=X.clone())
    before = dict(encoding.data)
    LossSurface(TwoViews(_read_encoding), F.mse_loss, (encoding, Y), batch_size=4)
    assert all(encoding.data[key] is value for key, value in before.items())
    inputs = X.clone()
    LossSurface(Marking(2, 1).double(), F.mse_loss, (inputs, Y))
    assert not inputs.requires_grad


def test_targets_may_have_another_length_than_the_inputs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        recurrent, tokens = Recurrent(), torch.randint(0, 11, (6, 5))
        tagger = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11)).double()
    by_time = torch.randn(5, 9, 2, dtype=torch.float64)
    surface = LossSurface(recurrent, F.cross_entropy, (by_time, LABELS))
    assert surface.examples == 9
    assert surface.loss() == pytest.approx(F.cross_entropy(recurrent(by_time), LABELS).item(), rel=1e-12)
    with pytest.raises(
        InvalidInput, match="batch_size can't cut these data: they hold 5 inputs but 9 targets"
    ):
        LossSurface(recurrent, F.cross_entropy, (by_time, LABELS), batch_size=3)

    def per_token(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), labels)

    flat = LossSurface(tagger, per_token, (tokens, tokens.flatten()))
    listed = [(tokens[:2], tokens[:2].flatten()), (tokens[2:], tokens[2:].flatten())]
    vector = torch.ones(flat.dimension, dtype=torch.float64)
    # A batch counts by its labels, so uneven batches give the mean over all tokens.
    assert torch.allclose(LossSurface(tagger, per_token, listed).hvp(vector), flat.hvp(vector), atol=1e-12)


@pytest.mark.parametrize("count", [2, 1, 4])
def test_numbers_of_targets_that_fit_nothing_are_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"3 inputs but {count} targets"):
        LossSurface(nn.Linear(2, 1).double(), F.mse_loss, (X[:3], torch.zeros(count, dtype=torch.float64)))


def test_missing_targets_that_the_loss_masks() -> None:
    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        return torch.where(known, outputs - targets.nan_to_num(), 0.0).square().sum() / known.sum()

    targets = Y.clone()
    targets[::3] = torch.nan
    model = nn.Linear(2, 1).double()
    known = LossSurface(model, F.mse_loss, (X[~targets.isnan()[:, 0]], Y[~targets.isnan()[:, 0]]))
    found = LossSurface(model, masked, (X, targets))
    vector = torch.ones(3, dtype=torch.float64)
    assert torch.allclose(found.hvp(vector), known.hvp(vector), atol=1e-12)


class Rows(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": X[index], "labels": Y[index]}


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(X[i], Y[i]) for i in range(9)])


def test_streams_of_examples_and_of_batches() -> None:
    model = nn.Linear(2, 1).double()
    whole = LossSurface(model, F.mse_loss, (X, Y))
    _agree(whole, LossSurface(model, F.mse_loss, DataLoader(Stream(), batch_size=4)))
    _agree(whole, LossSurface(model, F.mse_loss, Stream()))  # each example a batch


class OfDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1).double()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layer(batch["x"])


def test_a_loader_of_dicts_is_refused_with_what_to_do_and_that_works() -> None:
    loader = DataLoader(Rows(), batch_size=4)
    model = OfDict()
    with pytest.raises(InvalidInput, match=r"pair \(inputs, targets\).*for batch in loader"):
        LossSurface(model, F.mse_loss, loader)
    surface = LossSurface(model, F.mse_loss, [(batch, batch["labels"]) for batch in loader])
    _agree(surface, LossSurface(model.layer, F.mse_loss, (X, Y)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X.numpy(), Y.numpy()), "torch.as_tensor"),
        ([(X.numpy(), Y.numpy())] * 3, "torch.as_tensor"),
        (DataLoader(TensorDataset(X, X, Y), batch_size=4), r"3 values.*\(first, second\), targets"),
        ([X, X, X], r"\(inputs, None\)"),
        (TensorDataset(X, Y), "wrap a Dataset in a DataLoader"),
        (((X, Y) for _ in range(2)), "one-shot"),
        (DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True), "shuffling"),
        ((X.float(), Y), "same dtype"),
    ],
)
def test_other_data_are_refused_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        LossSurface(nn.Linear(2, 1).double(), F.mse_loss, data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4"])
def test_batch_sizes_are_whole_numbers(size: Any) -> None:
    with pytest.raises(InvalidInput, match="batch_size"):
        LossSurface(nn.Linear(2, 1).double(), F.mse_loss, (X, Y), batch_size=size)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda out, y: F.mse_loss(out, y).item(), "without .item"),
        (lambda out, y: (F.mse_loss(out, y), {"accuracy": 1.0}), "without other values"),
        (lambda out, y: (out - y).square(), 'reduction="none"'),
    ],
)
def test_losses_that_are_no_scalar_tensor(loss_fn: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LossSurface(nn.Linear(2, 1).double(), loss_fn, (X, Y))


def test_arrays_inside_structures_are_cut_with_their_examples() -> None:
    class Checked(nn.Linear):
        def forward(self, inputs: Any) -> Tensor:
            assert len(inputs["index"]) == len(inputs["x"])
            return super().forward(inputs["x"])

    inputs = {"x": X, "index": np.arange(9)}
    cut = LossSurface(Checked(2, 1).double(), F.mse_loss, (inputs, Y), batch_size=4)
    assert cut.examples == 9
