"""Functions of torch replaced, while measuring, by forms that are cheap to differentiate twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .attention import attention, is_plain_attention
from .fast_matmul import is_any_size_used, pays
from .gelu import gelu
from .layer_norm import layer_norm
from .linear import linear
from .softmax import log_softmax, softmax

# Logits from which their softmax's logarithm gains more than a function in Python costs: classifiers of few
# classes have fewer.
SMALLEST_LOGITS = 2**14

_replacing: ContextVar[bool] = ContextVar("_replacing", default=False)


@contextmanager
def functions_replaced() -> Iterator[None]:
    """Inside, :func:`cheap_functions` replaces torch's functions."""
    token = _replacing.set(True)
    try:
        yield
    finally:
        _replacing.reset(token)


def cheap_functions() -> AbstractContextManager[Any]:
    """To evaluate a model or a loss in: torch's functions replaced, inside :func:`functions_replaced`.

    Entered around each evaluation and not around a whole session, in which the caller may compute other
    things, and in which every call from Python would pay for the override.
    """
    return CheapFunctions() if _replacing.get() else nullcontext()


class CheapFunctions(TorchFunctionMode):
    """Calls of linear layers, LayerNorm, GELU, softmax and attention go to this package's own.

    A call keeps torch's own function where the replacement does not offer what it asks for, and where no
    gradient is asked for.

    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> with CheapFunctions():
    ...     print(torch.softmax(x, 1).grad_fn.name(), (x + 1).grad_fn.name())
    _SoftmaxBackward AddBackward0
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        # Subclasses of tensors may mean something else by the same function.
        plain = torch.is_grad_enabled() and all(kind in (Tensor, torch.nn.Parameter) for kind in types)
        replacement = _REPLACEMENTS.get(func) if plain else None
        if replacement is not None:
            found = replacement(*args, **options)
            if found is not None:
                return found
        body = _BODIES.get(func) if plain else None
        if body is not None:
            with self:  # the calls inside pass here too
                return body(*args, **options)
        return func(*args, **options)


def _differentiable(*tensors: Tensor | None) -> bool:
    """Ordinary tensors of one precision, one of which requires a gradient."""
    given = [t for t in tensors if t is not None]
    plain = all(isinstance(t, Tensor) and t.layout is torch.strided and not t.is_nested for t in given)
    return (
        plain
        and given[0].dtype in (torch.float32, torch.float64)
        and all(t.dtype == given[0].dtype for t in given)
        and all(t.numel() > 0 for t in given)
        and any(t.requires_grad for t in given)
    )


def _many_logits(logits: Tensor) -> bool:
    return logits.numel() >= SMALLEST_LOGITS or is_any_size_used()


# Each returns None where torch's own function has to serve.


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _differentiable(input, weight, bias) or weight.ndim != 2 or input.ndim < 2:
        return None
    if not pays(input, input.numel() * len(weight)):
        return None
    return linear(input, weight, bias)


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor | None:
    shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    if not _differentiable(input, weight, bias) or list(input.shape[input.ndim - len(shape) :]) != shape:
        return None
    return layer_norm(input, shape, weight, bias, eps)


def _gelu(input: Tensor, *, approximate: str = "none") -> Tensor | None:
    if not _differentiable(input) or approximate not in ("none", "tanh"):
        return None
    return gelu(input, approximate)


def _along(kind: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor | None]:
    def replacement(input: Tensor, dim: Any = None, dtype: Any = None) -> Tensor | None:
        if not isinstance(dim, int) or dtype is not None or not _differentiable(input) or input.ndim == 0:
            return None
        if kind is log_softmax and not _many_logits(input):
            return None
        return kind(input, dim)

    return replacement


def _functional(kind: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor | None]:
    of_torch = _along(kind)

    def replacement(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor | None:
        return of_torch(input, dim, dtype)

    return replacement


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    if dropout_p or not _differentiable(query, key, value):
        return None
    if not is_plain_attention(query, key, value, attn_mask, is_causal):
        return None
    return attention(query, key, value, attn_mask, is_causal, scale)


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    if size_average is not None or reduce is not None or label_smoothing or not _differentiable(input):
        return None
    if input.ndim < 2 or target.is_floating_point() or not _many_logits(input):
        return None
    return F.nll_loss(log_softmax(input, 1), target, weight, ignore_index=ignore_index, reduction=reduction)


_REPLACEMENTS: dict[Any, Callable[..., Tensor | None]] = {
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.gelu: _gelu,
    F.softmax: _functional(softmax),
    torch.softmax: _along(softmax),
    Tensor.softmax: _along(softmax),
    F.log_softmax: _functional(log_softmax),
    torch.log_softmax: _along(log_softmax),
    Tensor.log_softmax: _along(log_softmax),
    F.scaled_dot_product_attention: _attention,
    F.cross_entropy: _cross_entropy,
}


def _body(function: Any) -> Any:
    """The function without its question whether somebody wants to replace it as a whole."""
    unasked = {**function.__globals__, "has_torch_function": lambda _: False}
    body = FunctionType(
        function.__code__, unasked, function.__name__, function.__defaults__, function.__closure__
    )
    body.__kwdefaults__ = function.__kwdefaults__
    return body


# Functions written in Python that call some of the functions above.
_BODIES: dict[Any, Any] = {F.multi_head_attention_forward: _body(F.multi_head_attention_forward)}
