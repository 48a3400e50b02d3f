"""Products of transformers, of whatever parts of torch they are built, in the forms used while measuring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from sharpbench.models.char_transformer import CharTransformer
from sharpbench.sharpness import GaussNewton, LossSurface, functions

LENGTH, WORDS, WIDTH = 7, 11, 8
HIDDEN = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _fused_with_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, ~HIDDEN)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return torch.softmax(scores.masked_fill(HIDDEN, -torch.inf), -1) @ v


class Block(nn.Module):
    def __init__(self, attend: Callable[..., Tensor], gelu: nn.Module, affine: bool, bias: bool) -> None:
        super().__init__()
        self.attend, self.gelu = attend, gelu
        self.norm1 = nn.LayerNorm(WIDTH, elementwise_affine=affine)
        self.norm2 = nn.LayerNorm(WIDTH, bias=bias)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.out, self.up = nn.Linear(WIDTH, WIDTH, bias=bias), nn.Linear(WIDTH, 16, bias=bias)
        self.down = nn.Linear(16, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(WIDTH, dim=2)
        )
        x = x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class MultiHead(nn.Module):
    """torch's own attention layer, with every mask that it takes."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.norm, self.need_weights = nn.LayerNorm(WIDTH), need_weights
        self.attention = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = True
        found = self.attention(
            normal, normal, normal, padding, need_weights=self.need_weights, attn_mask=HIDDEN
        )
        return x + found[0]


class Language(nn.Module):
    def __init__(self, *blocks: nn.Module, tied: bool = False, saving: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.saving = saving
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.saving else block(x)
        return self.head(self.norm(x)).transpose(1, 2)


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.1, activation="gelu", batch_first=True)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: Language(Block(_fused, nn.GELU(), True, True), Block(_fused, nn.GELU(), True, False)),
    "masked": lambda: Language(Block(_fused_with_mask, nn.GELU("tanh"), False, True)),
    "written_out": lambda: Language(Block(_written_out, nn.GELU(), False, False), tied=True),
    "in_place": lambda: Language(Block(_written_out, nn.ReLU(inplace=True), True, True)),
    "multi_head": lambda: Language(MultiHead(False), Block(_fused, nn.SiLU(), True, True)),
    "multi_head_weights": lambda: Language(MultiHead(True)),
    "encoder_layer": lambda: Language(_encoder()),
    "char_transformer": lambda: nn.Sequential(
        CharTransformer(LENGTH, WORDS, width=WIDTH, depth=2, heads=2, tied=True), nn.Flatten(0, 1)
    ),
}


def _surface(
    model: nn.Module, dtype: torch.dtype = torch.float64, loss: Any = F.cross_entropy
) -> LossSurface:
    generator = torch.Generator().manual_seed(1)
    tokens, following = torch.randint(0, WORDS, (2, 6, LENGTH), generator=generator)
    if isinstance(model, nn.Sequential):
        return LossSurface(model.to(dtype).eval(), lambda o, t: loss(o, t.flatten()), (tokens, following))
    return LossSurface(model.to(dtype).eval(), loss, (tokens, following))


def _vector(surface: LossSurface) -> Tensor:
    return torch.randn(surface.dimension, generator=torch.Generator().manual_seed(2)).to(surface.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-5)])
@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_of_torch(name: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    surface = _surface(MODELS[name](), dtype)
    vector = _vector(surface)
    assert surface.form == "cheap"
    found = [surface.loss(), surface.gradient(), surface.hvp(vector), GaussNewton(surface).hvp(vector)]
    surface.form = "own"
    wanted = [surface.loss(), surface.gradient(), surface.hvp(vector), GaussNewton(surface).hvp(vector)]
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert float((one - other).norm()) <= tolerance * float(other.norm())


class Kernels(TorchDispatchMode):
    """Counts the kernels that run inside, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_product_takes_half_the_kernels() -> None:
    torch.manual_seed(0)
    surface = _surface(MODELS["fused"]())
    counts = []
    for form in ("cheap", "own"):
        surface.form = form
        with surface.session():
            surface.hvp(_vector(surface))
            with Kernels() as kernels:
                surface.hvp(_vector(surface))
        counts.append(kernels.count)
    assert counts[0] < 0.6 * counts[1]


def test_only_the_model_and_its_loss_are_evaluated_so() -> None:
    surface = _surface(MODELS["fused"]())
    x = torch.randn(3, requires_grad=True)
    with surface.session():
        surface.hvp(_vector(surface))
        assert F.gelu(x).grad_fn.name() == "GeluBackward0"


def _wrong(x: Tensor, approximate: str = "none") -> Tensor:
    return x.square()


def _failing(x: Tensor, approximate: str = "none") -> Tensor:
    raise TypeError("not these arguments")


@pytest.mark.parametrize("replacement", [_wrong, _failing])
def test_a_form_that_is_wrong_or_fails_is_not_used(
    monkeypatch: pytest.MonkeyPatch, replacement: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    model = MODELS["fused"]()
    wanted = _surface(model)
    monkeypatch.setitem(functions._REPLACEMENTS, F.gelu, replacement)
    surface = _surface(model)
    assert (surface.form, wanted.form) == ("own", "cheap")
    monkeypatch.undo()
    torch.testing.assert_close(
        surface.hvp(_vector(surface)), wanted.hvp(_vector(wanted)), rtol=1e-9, atol=1e-13
    )


def test_a_loss_that_differentiates_the_model_keeps_torchs_forms() -> None:
    class Penalty(nn.Module):
        """Outputs and their slope by the inputs, so that a product is a third derivative."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.clone().requires_grad_()
                found = self.layers(x)
                (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
            return torch.cat([found, slope], 1)

    torch.manual_seed(0)
    surface = LossSurface(
        Penalty().double(), F.mse_loss, (torch.randn(5, 3).double(), torch.randn(5, 4).double()), check=False
    )
    assert surface.form == "own"
    vector, step = _vector(surface), 1e-5
    wanted = (surface.gradient_at(step * vector) - surface.gradient_at(-step * vector)) / (2 * step)
    torch.testing.assert_close(surface.hvp(vector), wanted, rtol=1e-6, atol=1e-8)


def test_activations_computed_again() -> None:
    torch.manual_seed(0)
    plain = MODELS["fused"]()
    saving = Language(*plain.blocks, saving=True)
    saving.load_state_dict(plain.state_dict())
    surface, other = _surface(plain), _surface(saving)
    torch.testing.assert_close(
        other.hvp(_vector(other)), surface.hvp(_vector(surface)), rtol=1e-9, atol=1e-13
    )


def test_checked_on_few_examples_and_used_on_many() -> None:
    """Matrices of single precision that are large enough take the faster kernels, recorded lines included."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(inplace=True), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
    )
    data = (torch.randn(512, 64), torch.randint(0, 10, (512,)))
    surface = LossSurface(model, F.cross_entropy, data)
    vector = _vector(surface)
    with surface.session():
        found = [surface.hvp(vector) for _ in range(5)]
        assert None not in surface.graphs.replays._programs.values()
        assert surface.graphs.replays._programs
    exact = LossSurface(model.double(), F.cross_entropy, (data[0].double(), data[1]))
    exact.form = "own"
    wanted = exact.hvp(vector.double())
    for one in found:
        assert float((one - wanted).norm()) <= 3e-6 * float(wanted.norm())
