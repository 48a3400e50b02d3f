"""The model comes back exactly as it went in, and unusable input is refused with its likely cause."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import LossSurface, MeasuredInEvalMode, measure


class Touchy(nn.Module):
    """Writes a buffer and draws random numbers (unused) in every forward pass, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.readout = nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(3), np.random.rand(), random.random()
        return self.readout(self.drop(torch.tanh(self.norm(self.hidden(x)))))


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(12, 4, generator=generator), torch.randint(0, 3, (12,), generator=generator)


def _snapshot(model: nn.Module) -> list[object]:
    return [
        {k: v.clone() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        [sorted(vars(m)) for m in model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].copy(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_grad_enabled(),
    ]


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def touchy() -> nn.Module:
    model = Touchy()
    F.cross_entropy(model(_data()[0]), _data()[1]).backward()
    model.norm.eval()  # mixed flags, as fine-tuning leaves them
    model.hidden.weight.requires_grad_(False)
    return model


def test_measuring_everything_leaves_no_trace(touchy: nn.Module) -> None:
    before = _snapshot(touchy)
    with torch.no_grad(), pytest.warns(MeasuredInEvalMode, match="Dropout"):
        card = measure(touchy, F.cross_entropy, _data(), hvps=20)
    assert touchy.hidden.weight.grad is not None
    assert len(card.frame) > 10
    after = _snapshot(touchy)
    assert _same(before, after)


def test_an_exception_leaves_no_trace(touchy: nn.Module) -> None:
    with pytest.warns(MeasuredInEvalMode):
        surface = LossSurface(touchy, F.cross_entropy, _data())
    before = _snapshot(touchy)
    calls: list[int] = []

    def fails_second(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("on purpose")
        return F.cross_entropy(outputs, targets)

    surface.evaluate.loss_fn = fails_second
    with pytest.raises(RuntimeError, match="on purpose"):
        surface.losses_at(torch.ones(surface.dimension, 2))
    assert _same(before, _snapshot(touchy))


def test_works_inside_inference_mode_and_under_autocast() -> None:
    model = nn.Linear(4, 3)
    reference = LossSurface(model, F.cross_entropy, _data()).hvp(torch.ones(15))
    with torch.inference_mode(), torch.autocast("cpu"):
        product = LossSurface(model, F.cross_entropy, _data()).hvp(torch.ones(15))
    assert torch.equal(product, reference)


@pytest.mark.parametrize("batch_size", [4, 12])
def test_a_fixed_loader_is_fine_and_a_shuffling_one_refused(batch_size: int) -> None:
    data = TensorDataset(*_data())
    model = nn.Linear(4, 3)
    fixed = LossSurface(model, F.cross_entropy, DataLoader(data, batch_size=batch_size))
    assert fixed.loss() == pytest.approx(LossSurface(model, F.cross_entropy, _data()).loss(), rel=1e-6)
    if batch_size == 4:
        with pytest.raises(InvalidInput, match="shuffl"):
            LossSurface(model, F.cross_entropy, DataLoader(data, batch_size=batch_size, shuffle=True))


def test_dropout_that_ignores_eval_mode_is_refused() -> None:
    class Leaky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5, training=True)

    with pytest.raises(InvalidInput, match="dropout"):
        LossSurface(Leaky(4, 3), F.cross_entropy, _data())


def _not_finite() -> tuple[Tensor, Tensor]:
    inputs, targets = _data()
    inputs[0, 0] = float("nan")
    return inputs, targets


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


@pytest.mark.parametrize(
    ("model", "loss_fn", "data", "message"),
    [
        (nn.Linear(4, 3), F.cross_entropy, _not_finite(), "loss is nan"),
        (nn.Linear(4, 3), F.cross_entropy, (torch.zeros(0, 4), torch.zeros(0)), "no examples"),
        (nn.Linear(4, 3), F.cross_entropy, [], "no examples"),
        (nn.Linear(4, 3), F.cross_entropy, iter([_data()]), "one-shot iterator"),
        (nn.Linear(4, 3), F.cross_entropy, (torch.zeros(3, 4), torch.zeros(2)), "3 inputs but 2 targets"),
        (nn.Linear(4, 3), F.cross_entropy, 3.0, "data must be"),
        (nn.Linear(4, 3), partial(F.cross_entropy, reduction="none"), _data(), "scalar"),
        (nn.Linear(4, 3), nn.CrossEntropyLoss(reduction="sum"), _data(), "mean"),
        (nn.Linear(4, 3).half(), F.cross_entropy, _data(), "float32 or float64"),
        (nn.ReLU(), F.cross_entropy, _data(), "no parameters"),
        (Detached(4, 3), F.cross_entropy, _data(), "detached"),
        (lambda x: x, F.cross_entropy, _data(), "torch.nn.Module"),
        (nn.LazyLinear(3), F.cross_entropy, _data(), "not initialised"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refusals_name_the_cause(model: nn.Module, loss_fn: object, data: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        LossSurface(model, loss_fn, data)  # type: ignore[arg-type]


def test_unknown_parameter_names_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'weight'"):
        LossSurface(nn.Linear(4, 3), F.cross_entropy, _data(), params=["wieght"])
    surface = LossSurface(nn.Linear(4, 3), F.cross_entropy, _data())
    with pytest.raises(InvalidInput, match="of shape"):
        surface.hvp(torch.ones(3))
    with pytest.raises(InvalidInput, match="batch_size"):
        LossSurface(nn.Linear(4, 3), F.cross_entropy, [_data()], batch_size=3)
