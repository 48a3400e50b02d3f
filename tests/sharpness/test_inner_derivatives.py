"""Models that differentiate in forward, and other models whose derivatives take care."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import LossSurface, measure

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def _network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def _points() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(12, n, generator=generator, dtype=torch.float64) for n in (2, 1))  # type: ignore[return-value]


class Poisson(nn.Module):
    """u + u_xx, the residual of a differential equation."""

    def __init__(self, create_graph: bool = True) -> None:
        super().__init__()
        self.net, self.create_graph = _network(), create_graph

    def forward(self, x: Tensor) -> Tensor:
        x.requires_grad_(True)
        u = self.net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=self.create_graph, retain_graph=True)
        return u + bend[:, :1]


class Force(nn.Module):
    """Minus the gradient of an energy; ``only`` leaves the energy itself out."""

    def __init__(self, create_graph: bool = True, only: bool = True) -> None:
        super().__init__()
        self.net, self.create_graph, self.only = _network(), create_graph, only

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        energy = self.net(x)
        (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=self.create_graph)
        return -slope[:, :1] if self.only else energy - slope[:, :1]


class Inner(nn.Module):
    """One step of gradient descent on a loss of its own, as in meta-learning."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        parameters = tuple(self.layer.parameters())
        inner = (self.layer(x) - 1).square().mean()
        weight, bias = torch.autograd.grad(inner, parameters, create_graph=True)
        return F.linear(x, parameters[0] - 0.1 * weight, parameters[1] - 0.1 * bias)


class Functional(nn.Module):
    """Derivatives, maps over examples and ensembles by torch.func."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.net, self.way = _network(), way

    def forward(self, x: Tensor) -> Tensor:
        func = torch.func
        parameters = dict(self.net.named_parameters())
        if self.way == "grad":
            return torch.vmap(func.grad(lambda z: self.net(z)[0]))(x)[:, :1]
        if self.way in ("jacrev", "jacfwd"):
            return torch.vmap(getattr(func, self.way)(self.net))(x)[:, 0, :1]
        if self.way == "hessian":
            return torch.vmap(func.hessian(lambda z: self.net(z)[0]))(x)[:, 0, :1]
        if self.way == "jvp":
            return func.jvp(self.net, (x,), (torch.ones_like(x),))[1]
        stacked = {name: torch.stack([p, 1.1 * p]) for name, p in parameters.items()}
        run = torch.vmap(lambda p, z: func.functional_call(self.net, p, (z,)), in_dims=(0, None))
        return run(stacked, x).mean(0)


class Image(nn.Module):
    """Convolution and BatchNorm, which have cheap forms, under a derivative in forward."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.convolution, self.norm = nn.Conv1d(1, 3, 3, padding=1), nn.BatchNorm1d(3)
            self.readout = nn.Linear(3, 1)
        self.double()
        self.functional = functional

    def score(self, x: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.norm(self.convolution(x))).mean(2))

    def forward(self, points: Tensor) -> Tensor:
        x = points[:, None, :]
        if self.functional:
            slope = torch.vmap(torch.func.grad(lambda z: self.score(z[None])[0, 0]))(x)
        else:
            x = x.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.score(x).sum(), x, create_graph=True)
        return slope[:, 0, :1]


WAYS = ("grad", "jacrev", "jacfwd", "hessian", "jvp", "ensemble")
MODELS: dict[str, Any] = {
    "poisson": Poisson,
    "force": Force,
    "inner": Inner,
    "image": lambda: Image(False).eval(),
    "image by func": lambda: Image(True).eval(),
    **{f"func {way}": (lambda way=way: Functional(way)) for way in WAYS},
}


def _exact(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient, and Hessian by central differences of the gradient."""
    parameters = list(model.parameters())

    def gradient() -> Tensor:
        pieces = torch.autograd.grad(
            F.mse_loss(model(x.clone()), y), parameters, allow_unused=True, materialize_grads=True
        )
        return torch.cat([piece.reshape(-1) for piece in pieces])

    here = gradient()
    columns = []
    for p in parameters:
        for i in range(p.numel()):
            ends = []
            for step in (1e-5, -2e-5):
                p.data.view(-1)[i] += step
                ends.append(gradient())
            p.data.view(-1)[i] += 1e-5
            columns.append((ends[0] - ends[1]) / 2e-5)
    return here, torch.stack(columns, 1)


@pytest.mark.parametrize("name", MODELS)
def test_models_that_differentiate_in_forward(name: str) -> None:
    model, (x, y) = MODELS[name](), _points()
    gradient, hessian = _exact(model, x, y)
    cuts = (None, 5) if name != "inner" else (None,)  # one inner loss over all the inputs
    for batch_size in cuts:
        surface = LossSurface(model, F.mse_loss, (x, y), batch_size=batch_size)
        assert surface.formulation == "double_backward"
        assert torch.allclose(surface.gradient(), gradient, atol=1e-10)
        assert torch.allclose(surface.dense_hessian(), hessian, atol=1e-7)
        offset = torch.full((surface.dimension,), 1e-5, dtype=torch.float64)
        slope = (surface.loss_at(offset) - surface.loss_at(-offset)) / 2e-5
        assert slope == pytest.approx(float(gradient.sum()), abs=1e-8)
    assert not x.requires_grad


def test_every_group_of_a_card_measures_a_physics_informed_network() -> None:
    x, y = _points()
    groups = ("spectrum", "sam_sharpness", "universal", "worst_case", "average_case", "gauss_newton")
    card = measure(Poisson(), F.mse_loss, (x, y), measures=groups, hvps=12)
    assert card.frame["value"].notna().all()


@pytest.mark.parametrize(
    "model", [Poisson(create_graph=False), Force(False), Force(False, only=False)], ids=["u", "f", "u + f"]
)
def test_a_derivative_without_its_graph_is_said(model: nn.Module) -> None:
    with pytest.raises(InvalidInput, match="create_graph=True") as refused:
        LossSurface(model, F.mse_loss, _points())
    assert "\n" not in str(refused.value)


def test_a_derivative_that_is_meant_to_be_constant_is_fine() -> None:
    class Reported(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.saliency = _network(), None

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone().requires_grad_(True)
            u = self.net(x)
            self.saliency = torch.autograd.grad(u.sum(), x, retain_graph=True)[0]  # looked at, not used
            return u

    model, (x, y) = Reported(), _points()
    plain = LossSurface(model.net, F.mse_loss, (x, y))
    assert torch.allclose(
        LossSurface(model, F.mse_loss, (x, y)).hvp(torch.ones(25, dtype=torch.float64)),
        plain.hvp(torch.ones(25, dtype=torch.float64)),
    )


@pytest.mark.parametrize("functional", [False, True])
def test_sparse_embeddings(functional: bool) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.table, self.readout = nn.Embedding(7, 3, sparse=True), nn.Linear(3, 4)
            self.double()

        def forward(self, tokens: Tensor) -> Tensor:
            found = F.embedding(tokens, self.table.weight, sparse=True) if functional else self.table(tokens)
            return self.readout(torch.tanh(found))

    model = Sparse()
    tokens = torch.tensor([1, 5, 5, 2, 0, 6])
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    surface = LossSurface(model, F.cross_entropy, (tokens, labels), batch_size=4)
    dense = nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Linear(3, 4)).double()
    dense[0].weight, dense[2].weight, dense[2].bias = (
        model.table.weight,
        model.readout.weight,
        model.readout.bias,
    )  # type: ignore[assignment]
    expected = LossSurface(dense, F.cross_entropy, (tokens, labels))
    assert torch.allclose(surface.dense_hessian(), expected.dense_hessian(), atol=1e-12)
    assert model.table.sparse  # as it was


def _with(change: Any) -> nn.Module:
    model = _network()
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 1, device="meta"), "meta device"),
        (nn.Linear(2, 1, dtype=torch.complex64), "view_as_complex"),
        (nn.Linear(2, 1).bfloat16(), r"model.float\(\)"),
        (
            _with(lambda m: m.register_parameter("n", nn.Parameter(torch.arange(3), requires_grad=False))),
            'params="trainable"',
        ),
        (nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)), "max_norm"),
    ],
)
def test_parameters_without_usable_derivatives_are_refused_in_one_line(
    model: nn.Module, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        LossSurface(model, F.mse_loss, _points())
    assert "\n" not in str(refused.value)
