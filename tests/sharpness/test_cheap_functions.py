"""Linear layers, LayerNorm, GELU, softmax and attention in the forms used while measuring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from sharpbench.sharpness.convolution import convolve
from sharpbench.sharpness.fast_matmul import at_any_size
from sharpbench.sharpness.functions import CheapFunctions, cheap_functions, functions_replaced
from sharpbench.sharpness.gelu import gelu
from sharpbench.sharpness.linear import linear


def _leaf(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def _turned(*shape: int) -> Tensor:
    """A leaf whose memory is not in the order of its dimensions."""
    return torch.randn(shape[::-1], dtype=torch.float64).permute(*range(len(shape))[::-1]).requires_grad_()


MASK = torch.tensor([[True, False, True], [True, True, False]])
LABELS = torch.tensor([2, -100, 0, 1])
# Name → (function, its arguments, the name of the node that the replacement leaves in the graph)
FORMS: dict[str, tuple[Callable[..., Tensor], Callable[[], tuple[Tensor, ...]], str]] = {
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, (5,), w, b),
        lambda: (_leaf(2, 3, 5), _leaf(5), _leaf(5)),
        "LayerNorm",
    ),
    "layer_norm_turned": (
        lambda x, w, b: F.layer_norm(x, (5,), w, b),
        lambda: (_turned(2, 3, 5), _leaf(5), _leaf(5)),
        "LayerNorm",
    ),
    "layer_norm_no_bias": (
        lambda x, w: F.layer_norm(x, (5,), w, eps=0.1),
        lambda: (_leaf(4, 5), _leaf(5)),
        "LayerNorm",
    ),
    "layer_norm_bias_alone": (
        lambda x, b: F.layer_norm(x, (5,), None, b),
        lambda: (_leaf(4, 5), _leaf(5)),
        "LayerNorm",
    ),
    "layer_norm_plain": (lambda x: F.layer_norm(x, (5,)), lambda: (_leaf(4, 5),), "LayerNorm"),
    "layer_norm_frozen": (
        lambda x: F.layer_norm(x, (5,), torch.arange(5.0).double()),
        lambda: (_leaf(4, 5),),
        "LayerNorm",
    ),
    "layer_norm_of_data": (
        lambda w, b: F.layer_norm(torch.arange(10.0).double().view(2, 5).sin(), (5,), w, b),
        lambda: (_leaf(5), _leaf(5)),
        "LayerNorm",
    ),
    "layer_norm_images": (
        lambda x, w, b: F.layer_norm(x, (2, 3), w, b),
        lambda: (_leaf(3, 2, 3), _leaf(2, 3), _leaf(2, 3)),
        "LayerNorm",
    ),
    "torch_layer_norm": (
        lambda x, w: torch.layer_norm(x, (4,), w),
        lambda: (_leaf(3, 4), _leaf(4)),
        "LayerNorm",
    ),
    "gelu": (lambda x: F.gelu(3 * x), lambda: (_leaf(4, 5),), "Gelu"),
    "gelu_tanh": (lambda x: F.gelu(3 * x, approximate="tanh"), lambda: (_turned(4, 5),), "Gelu"),
    "softmax": (lambda x: F.softmax(x, dim=-1), lambda: (_leaf(2, 3, 4),), "Softmax"),
    "softmax_turned": (lambda x: torch.softmax(x, 1), lambda: (_turned(2, 3, 4),), "Softmax"),
    "softmax_masked": (
        lambda x: x.masked_fill(~MASK, -torch.inf).softmax(-1),
        lambda: (_leaf(2, 2, 3),),
        "Softmax",
    ),
    "log_softmax": (lambda x: F.log_softmax(x, -1), lambda: (_leaf(3, 4),), "LogSoftmax"),
    "log_softmax_method": (lambda x: x.log_softmax(dim=0), lambda: (_leaf(3, 4),), "LogSoftmax"),
    "torch_log_softmax": (lambda x: torch.log_softmax(x, 1), lambda: (_turned(3, 4),), "LogSoftmax"),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS), lambda: (_leaf(4, 3),), "LogSoftmax"),
    "cross_entropy_weights": (
        lambda x: F.cross_entropy(x, LABELS, torch.arange(1.0, 4).double(), reduction="none"),
        lambda: (_leaf(4, 3),),
        "LogSoftmax",
    ),
    "cross_entropy_sequences": (
        lambda x: F.cross_entropy(x, torch.tensor([[0, 1], [2, 0]])),
        lambda: (_leaf(2, 3, 2),),
        "LogSoftmax",
    ),
    "attention": (
        F.scaled_dot_product_attention,
        lambda: (_leaf(2, 3, 4), _leaf(2, 5, 4), _leaf(2, 5, 6)),
        "Softmax",
    ),
    "attention_causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7),
        lambda: (_leaf(2, 1, 3, 4), _turned(2, 1, 3, 4), _leaf(2, 1, 3, 2)),
        "Softmax",
    ),
    "attention_causal_wide": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda: (_leaf(2, 3, 4), _leaf(2, 5, 4), _leaf(2, 5, 2)),
        "Softmax",
    ),
    "attention_booleans": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=MASK),
        lambda: (_leaf(1, 2, 4), _leaf(1, 3, 4), _leaf(1, 3, 2)),
        "Softmax",
    ),
    "attention_numbers": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        lambda: (_leaf(1, 2, 4), _leaf(1, 3, 4), _leaf(1, 3, 2), _leaf(2, 3)),
        "Softmax",
    ),
}
LINEAR: dict[str, tuple[Callable[..., Tensor], Callable[[], tuple[Tensor, ...]]]] = {
    "rows": (linear, lambda: (_leaf(3, 4), _leaf(2, 4), _leaf(2))),
    "texts": (linear, lambda: (_leaf(2, 3, 4), _leaf(2, 4), _leaf(2))),
    "no_bias": (linear, lambda: (_turned(2, 3, 4), _leaf(5, 4))),
    "of_data": (
        lambda w, b: linear(torch.arange(8.0).double().view(2, 4), w, b),
        lambda: (_leaf(3, 4), _leaf(3)),
    ),
    "frozen": (lambda x: linear(x, torch.arange(8.0).double().view(2, 4)), lambda: (_leaf(3, 4),)),
    "bias_alone": (
        lambda b: linear(torch.ones(3, 4).double(), torch.ones(2, 4).double(), b),
        lambda: (_leaf(2),),
    ),
    "one_row": (linear, lambda: (_leaf(1, 4), _turned(2, 4), _leaf(2))),
}


def _nodes(tensor: Tensor) -> set[str]:
    found: set[str] = set()
    stack: list[Any] = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None:
            found.add(node.name())
            stack += [parent for parent, _ in node.next_functions]
    return found


@pytest.mark.parametrize("name", FORMS)
def test_a_function_and_its_two_derivatives(name: str) -> None:
    torch.manual_seed(0)
    function, arguments, node = FORMS[name]
    leaves = arguments()

    def replaced(*leaves: Tensor) -> Tensor:
        with at_any_size(), CheapFunctions():
            return function(*leaves)

    found = replaced(*leaves)
    assert f"_{node}Backward" in _nodes(found)
    torch.testing.assert_close(found, function(*leaves), rtol=1e-13, atol=1e-14)
    assert gradcheck(replaced, leaves)
    assert gradgradcheck(replaced, leaves)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_and_its_two_derivatives(name: str) -> None:
    torch.manual_seed(0)
    function, arguments = LINEAR[name]
    leaves = arguments()
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_out(approximate: str) -> None:
    x = torch.tensor([-40.0, -9.0, 0.0, 9.0, 40.0], dtype=torch.float64, requires_grad=True)
    results = []
    for function in (gelu, F.gelu):
        (slope,) = torch.autograd.grad(function(x, approximate=approximate).sum(), x, create_graph=True)
        results.append([slope.detach(), *torch.autograd.grad(slope.sum(), x)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


class Marked(Tensor):
    """A subclass, which may mean something else by a function."""


def _plain(name: str) -> Tensor:
    x = torch.randn(2, 3, 4, requires_grad=True)
    everything_hidden = torch.zeros(3, 3, dtype=torch.bool)
    calls: dict[str, Callable[[], Tensor]] = {
        "half precision": lambda: F.gelu(x.bfloat16()),
        "another type of result": lambda: torch.softmax(x, 1, dtype=torch.float64),
        "a subclass": lambda: F.gelu(x.as_subclass(Marked)),
        "no gradient asked for": lambda: F.gelu(x.detach()),
        "a query that sees nothing": lambda: F.scaled_dot_product_attention(x, x, x, everything_hidden),
        "labels smoothed": lambda: F.cross_entropy(x[0], torch.tensor([1, 2, 0]), label_smoothing=0.1),
        "labels as probabilities": lambda: F.cross_entropy(x[0], torch.full((3, 4), 0.25)),
        "no features": lambda: F.gelu(x[:0]),
        "shared heads": lambda: F.scaled_dot_product_attention(
            x[None].repeat(1, 2, 1, 1), x[None], x[None], enable_gqa=True
        ),
    }
    return calls[name]()


@pytest.mark.parametrize(
    "name",
    [
        "half precision",
        "another type of result",
        "a subclass",
        "no gradient asked for",
        "a query that sees nothing",
        "labels smoothed",
        "labels as probabilities",
        "no features",
        "shared heads",
    ],
)
def test_what_a_replacement_does_not_offer_stays_with_torch(name: str) -> None:
    torch.manual_seed(0)
    wanted = _plain(name)
    torch.manual_seed(0)
    with at_any_size(), CheapFunctions():
        found = _plain(name)
    assert _nodes(found) == _nodes(wanted)
    assert torch.equal(found, wanted)


def test_later_operations_may_overwrite_a_result() -> None:
    x, weight = torch.randn(3, 2, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    found = torch.relu_(linear(x, weight))
    torch.testing.assert_close(found, F.linear(x, weight).relu(), rtol=1e-5, atol=1e-6)
    assert len(torch.autograd.grad(found.sum(), (x, weight))) == 2


def test_functions_are_replaced_only_where_asked_for() -> None:
    x = torch.randn(3, requires_grad=True)
    with cheap_functions():
        assert _nodes(F.gelu(x)) >= {"GeluBackward0"}
    with functions_replaced():
        assert _nodes(F.gelu(x)) >= {"GeluBackward0"}
        with cheap_functions():
            assert _nodes(F.gelu(x)) >= {"_GeluBackward"}
        with cheap_functions(), torch.no_grad():
            assert F.gelu(x).grad_fn is None


@pytest.mark.parametrize("name", ["gelu", "layer_norm", "softmax", "log_softmax", "linear", "convolution"])
def test_a_third_derivative_is_refused(name: str) -> None:
    if name == "convolution":
        leaves: tuple[Tensor, ...] = (_leaf(2, 1, 4),)
        value = convolve(nn.Conv1d(1, 2, 3).double(), *leaves)
    else:
        function, arguments = LINEAR["rows"] if name == "linear" else FORMS[name][:2]
        leaves = arguments()
        with at_any_size(), CheapFunctions():
            value = function(*leaves)
    (slope,) = torch.autograd.grad(value.sin().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative"):
        torch.autograd.grad(slope.sin().sum(), leaves[0], create_graph=True)
