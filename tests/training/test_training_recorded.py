"""Recorded gradients: the same bits as autograd's, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from sharpbench.bench.run import execute
from sharpbench.models import build_model
from sharpbench.spec import RunSpec, TaskSpec
from sharpbench.tape import Tape
from sharpbench.training import batch
from sharpbench.training.batch import cross_entropy, recorded_gradient
from sharpbench.training.recorded import RecordedGradient

DIGITS = torch.Size((1, 8, 8))


def examples(count: int = 20, shape: tuple[int, ...] = DIGITS) -> tuple[Tensor, Tensor]:
    return torch.randn(count, *shape), torch.randint(0, 10, (count,))


def agreed(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> int:
    """Runs the batches recorded and by autograd, the weights moving between them; how many were replays."""
    recorded = RecordedGradient(model, cross_entropy)
    state = [*model.parameters(), *model.buffers()]
    for x, y in batches:
        before, generator = [s.detach().clone() for s in state], torch.get_rng_state()
        loss, logits = recorded(x, y)
        found = [loss, logits, *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]
        after = torch.get_rng_state()
        with torch.no_grad():
            for s, value in zip(state, before, strict=True):
                s.copy_(value)
        torch.set_rng_state(generator)
        model.zero_grad()
        own = model(x)
        own_loss = cross_entropy(own, y)
        own_loss.backward()
        expected = [own_loss, own, *(p.grad for p in model.parameters()), *model.buffers()]
        for ours, autograds in zip(found, expected, strict=True):
            if autograds is None:
                assert ours is None
            else:
                assert torch.equal(ours, autograds)
                assert ours.stride() == autograds.stride()
                assert not ours.requires_grad
        assert torch.equal(after, torch.get_rng_state())
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * p.grad if p.grad is not None else 0.0)
    return recorded.replays


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", DIGITS), ("small_cnn", DIGITS), ("small_cnn", (3, 9, 7)), ("tiny_vit", DIGITS),
        ("resnet18_narrow", (3, 8, 8)), ("densenet_narrow", (3, 8, 8)), ("vgg_narrow", (3, 8, 8)),
    ],
)  # fmt: skip
def test_the_same_bits_as_autograd(name: str, shape: tuple[int, ...]) -> None:
    model = build_model(name, shape, 10)
    kinds = [examples(12, shape), examples(13, shape)]
    # Two kinds of batch, each recorded, compared, and from then on replayed.
    assert agreed(model, kinds * 4) == 4


def test_texts_and_channels_last() -> None:
    text = build_model("char_transformer", (6,), 10)
    tokens = torch.randint(0, 10, (4, 6))
    assert agreed(text, [(tokens, tokens)] * 4) == 2
    # Autograd lays the gradients out as the weights: not recorded, and right.
    last = build_model("small_cnn", DIGITS, 10).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = examples()
    assert agreed(last, [(x.to(memory_format=torch.channels_last), y)] * 4) in (0, 2)


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), max_size=3),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.Identity, lambda: nn.ReLU(inplace=True)]),
    norm=st.booleans(),
    bias=st.booleans(),
    residual=st.booleans(),
    count=st.integers(2, 7),
    seed=st.integers(0, 2**16),
)
def test_any_layered_network(
    widths: list[int],
    activation: Callable[[], nn.Module],
    norm: bool,
    bias: bool,
    residual: bool,
    count: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    last = 64
    for width in widths:
        layers += [
            nn.Linear(last, width, bias=bias),
            *([nn.BatchNorm1d(width)] if norm else []),
            activation(),
        ]
        if residual:
            layers += [Residual(nn.Sequential(nn.Linear(width, width), activation()))]
        last = width
    model = nn.Sequential(*layers, nn.Linear(last, 10, bias=bias))
    assert agreed(model, [examples(count)] * 4) == 2


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(x) + self.inner(x)


class Odd(nn.Module):
    """A network that no recording tells: ``how`` says why."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.calls = how, 0
        self.one, self.two = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = x.flatten(1)
        if self.how == "random":
            return self.one(nn.functional.dropout(x, 0.5))  # type: ignore[no-any-return]
        if self.how == "values":
            return self.one(x) if bool(x.sum() > 0) else self.two(x)  # type: ignore[no-any-return]
        if self.how == "python":
            return self.one(x) * (1 + self.calls % 2)  # type: ignore[no-any-return]
        return self.one(x)  # type: ignore[no-any-return]  # the other gets no gradient


@pytest.mark.parametrize("how", ["random", "values", "python", "unused"])
def test_what_no_recording_tells_is_left_to_autograd(how: str) -> None:
    model = Odd(how)
    if how == "python":  # each batch both ways would count twice: the replays alone are looked at
        recorded = RecordedGradient(model, cross_entropy)
        x, y = examples()
        for expected in (2, 1, 2, 1):
            logits = recorded(x, y)[1]
            assert torch.equal(logits, model.one(x.flatten(1)) * expected)
        assert recorded.replays == 0
    else:
        assert agreed(model, [examples() for _ in range(6)]) == 0


def test_weights_may_be_tied_and_frozen_ones_may_move() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(10, 10), nn.Linear(64, 10)
            self.head.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(torch.tanh(self.inner(self.head(x.flatten(1)))))  # type: ignore[no-any-return]

    model = Tied()
    recorded = RecordedGradient(model, cross_entropy)
    x, y = examples()
    for _ in range(5):
        loss, _ = recorded(x, y)
        assert torch.equal(loss, cross_entropy(model(x), y).detach())
        with torch.no_grad():
            model.head.bias.add_(1.0)
    assert recorded.replays == 3
    assert model.head.bias.grad is None


def test_gradients_that_share_memory_are_left_to_autograd() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(torch.randn(64, 10)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) @ (self.a + self.b)

    model = Sum()
    assert agreed(model, [examples() for _ in range(4)]) == 0
    assert model.a.grad is not None
    assert model.b.grad is not None
    assert model.a.grad.data_ptr() != model.b.grad.data_ptr()


@pytest.mark.parametrize("method", ["sgd", "sam", "infosam", "esam", "frob_sam", "msam"])
@pytest.mark.parametrize("model", ["mlp", "small_cnn"])
def test_a_run_is_the_same_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, model: str
) -> None:
    spec = RunSpec(
        task={"epochs": 3, "train_fraction": 0.2, "model": model, "label_noise": 0.5},
        optimizer={"name": method, "label": method},
        measure={"measures": ("sam_sharpness",), "examples": 32},
    )
    replays: list[int] = []
    evaluate = RecordedGradient.__call__

    def counting(self: RecordedGradient, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        found = evaluate(self, x, y)
        replays.append(self.replays)
        return found

    monkeypatch.setattr(RecordedGradient, "__call__", counting)
    execute(spec, tmp_path / "with")
    assert method == "esam" or max(replays) > 3
    monkeypatch.setattr(batch, "LARGEST", 0)
    replays.clear()
    execute(spec, tmp_path / "without")
    assert not replays
    one, two = (load_file(tmp_path / d / "model.safetensors") for d in ("with", "without"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    history = [pd.read_parquet(tmp_path / d / "history.parquet") for d in ("with", "without")]
    pd.testing.assert_frame_equal(*(h.drop(columns="wall_seconds") for h in history))


@pytest.mark.parametrize(
    "task", [{"precision": "bfloat16"}, {"micro_batches": 2}, {"compile": "default"}, {"model": "resnet18"}]
)
def test_recordings_are_for_plain_small_networks(task: dict[str, object]) -> None:
    chosen = TaskSpec.model_validate(task)
    model = build_model(chosen.model, (1, 8, 8), 10)
    assert recorded_gradient(model, chosen) is None
    small = build_model("mlp", DIGITS, 10)
    assert recorded_gradient(small, TaskSpec()) is not None
    assert recorded_gradient(small, TaskSpec(), ranks=2) is None


def test_a_tape_of_something_else() -> None:
    x = torch.arange(6.0).view(2, 3)
    with torch.no_grad(), Tape([x]) as tape:
        rows = x.sum(1, keepdim=True).view(2)
        twice = x.t().t().detach() * 2
        torch.exp(x)  # nobody asks for it
    program = tape.program([rows, twice])
    assert program is not None
    assert [r.tolist() for r in program(torch.ones(2, 3))] == [[3.0, 3.0], [[2.0] * 3] * 2]
    with torch.no_grad(), Tape([x]) as lists:
        (whole,) = x.split(2)
        first, second = whole.unbind()
        sums = torch._foreach_add([first, second], 1.0)
    replayed = lists.program([*sums, whole])
    assert replayed is not None
    assert [r.tolist() for r in replayed(torch.ones(2, 3))] == [[2.0] * 3, [2.0] * 3, [[1.0] * 3] * 2]
    names = program.__code__.co_names + tuple(program.__code__.co_varnames)
    assert len([n for n in names if n.startswith("f")]) == 2  # a sum, a product
    assert tape.program([torch.zeros(2)]) is None
    assert tape.unfit


def test_a_parameter_in_other_memory_is_recorded_anew() -> None:
    model = build_model("mlp", (1, 8, 8), 10)
    recorded = RecordedGradient(model, cross_entropy)
    x, y = examples()
    for _ in range(3):
        recorded(x, y)
    with torch.no_grad():
        for p in model.parameters():
            p.data = p.data * 2
    found = [recorded(x, y)[0] for _ in range(4)]
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    expected = cross_entropy(model(x), y)
    expected.backward()
    assert all(torch.equal(loss, expected) for loss in found)
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    assert recorded.replays == 3  # one before, two after the new recording and its comparison


def test_views_of_constants_are_made_once_and_follow_their_values() -> None:
    weight, x = torch.randn(3, 2), torch.randn(4, 2)
    with torch.no_grad(), Tape([x]) as tape:
        y = x @ weight.t()
    program = tape.program([y])
    assert program is not None
    assert {"f0", "f1"}.intersection(program.__code__.co_names) == {"f0"}  # the product alone
    weight.mul_(2)
    assert torch.equal(program(x)[0], x @ weight.t())


def test_ones_that_are_written_on_are_made_anew() -> None:
    x = torch.randn(3)
    with torch.no_grad(), Tape([x]) as tape:
        y = torch.ones_like(x).add_(x)
    program = tape.program([y])
    assert program is not None
    assert all(torch.equal(program(v)[0], 1 + v) for v in (x, x, x + 1))


@pytest.mark.parametrize("given", [True, False])
def test_ones_are_made_anew_where_a_view_of_them_is_written_on_or_given_away(given: bool) -> None:
    x = torch.randn(3)
    with torch.no_grad(), Tape([x]) as tape:
        view = torch.ones_like(x).view(3, 1)
        y = view if given else view.add_(1) * x
    program, expected = tape.program([y]), y.clone()
    assert program is not None
    for _ in range(3):
        (found,) = program(x)
        assert torch.equal(found, expected)
        found.add_(1)
