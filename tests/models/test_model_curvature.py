"""Every family has a second derivative, also in train mode; autocast, compile and layouts."""

from __future__ import annotations

import pytest
import torch
from model_cases import FAMILIES, examples, network
from torch import Tensor, nn

from sharpbench.sharpness import LossSurface
from sharpbench.training.batch import mean_cross_entropy

CONVOLUTIONAL = [name for name in FAMILIES if name not in ("mlp", "tiny_vit", "char_transformer")]


def double_problem(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    model = network(name).double()
    x, y = examples(name, count=6, dtype=torch.float64)
    with torch.no_grad():
        model(x)  # running statistics that are not the initial ones
    return model, x, y


def close(product: Tensor, slope: Tensor) -> None:
    assert float(slope.norm()) > 1e-6
    assert float((product - slope).norm()) <= 1e-4 * float(slope.norm())


@pytest.mark.parametrize("name", FAMILIES)
def test_hessian_products_agree_with_central_differences(name: str) -> None:
    model, x, y = double_problem(name)
    surface = LossSurface(model.eval(), mean_cross_entropy, (x, y))
    assert surface.formulation == "double_backward"
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(surface.dimension, dtype=torch.float64, generator=generator)
    vector /= vector.norm()
    step = 1e-6  # short enough to cross next to no kink of a ReLU
    slope = (surface.gradient_at(step * vector) - surface.gradient_at(-step * vector)) / (2 * step)
    close(surface.hvp(vector), slope)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_second_derivatives_in_train_mode(name: str) -> None:
    """Through the statistics of the batch: for whoever differentiates the training loss itself."""
    model, x, y = double_problem(name)
    model.train()
    weights = {key: p.detach() for key, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    vector = {key: torch.randn(p.shape, dtype=p.dtype, generator=generator) for key, p in weights.items()}
    length = torch.cat([v.flatten() for v in vector.values()]).norm()

    def gradient(step: float) -> tuple[list[Tensor], list[Tensor]]:
        moved = {key: (p + step * vector[key] / length).requires_grad_() for key, p in weights.items()}
        loss = mean_cross_entropy(torch.func.functional_call(model, moved, (x,)), y)
        return list(torch.autograd.grad(loss, list(moved.values()), create_graph=True)), list(moved.values())

    here, leaves = gradient(0.0)
    along = sum((g * v).sum() for g, v in zip(here, vector.values(), strict=True)) / length
    product = torch.autograd.grad(along, leaves, materialize_grads=True)
    (ahead, _), (behind, _) = gradient(1e-6), gradient(-1e-6)
    slope = torch.cat([(a - b).detach().flatten() / 2e-6 for a, b in zip(ahead, behind, strict=True)])
    close(torch.cat([p.flatten() for p in product]), slope)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_channels_last_goes_through_every_convolution(name: str) -> None:
    model = network(name, (3, 32, 32))
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = model.eval()(x)
    broken: list[str] = []

    def check(module: nn.Module, _: object, out: Tensor) -> None:
        if min(out.shape[2:]) > 1 and not out.is_contiguous(memory_format=torch.channels_last):
            broken.append(str(module))

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.AvgPool2d | nn.MaxPool2d):
            module.register_forward_hook(check)
    last = model.to(memory_format=torch.channels_last)
    out = last(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert broken == []


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_autocast_gives_finite_gradients(name: str) -> None:
    model = network(name)
    x, y = examples(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mean_cross_entropy(model(x), y)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_compile_sees_one_graph(name: str) -> None:
    model = network(name)
    x, _ = examples(name)
    model.eval()
    torch.compiler.reset()
    whole = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(whole(x), model(x))
