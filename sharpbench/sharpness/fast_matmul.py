"""Matrix products by the fastest kernels that torch has on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Multiplications from which oneDNN's kernels gain more than the call costs.
SMALLEST = 2**22
_smallest: ContextVar[int] = ContextVar("_smallest", default=SMALLEST)


@contextmanager
def at_any_size() -> Iterator[None]:
    """Use what pays on large tensors for the smallest too, so that a check on few examples sees it."""
    token = _smallest.set(0)
    try:
        yield
    finally:
        _smallest.reset(token)


def is_any_size_used() -> bool:
    """Whether :func:`at_any_size` holds."""
    return _smallest.get() == 0


def pays(tensor: Tensor, multiplications: int) -> bool:
    """Whether so many multiplications, with a tensor like this one, have faster kernels than ``torch.mm``'s.

    >>> pays(torch.ones(2, dtype=torch.float64), 10**9)  # those exist in single precision only
    False
    """
    if multiplications < _smallest.get() or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        return False
    return bool(torch.backends.mkldnn.enabled) and _linear() is not None


def rows_times(a: Tensor, b: Tensor, bias: Tensor | None = None, to: Tensor | None = None) -> Tensor:
    """``a bᵀ + bias + to`` for ``a`` of shape (m, k) and ``b`` of shape (n, k); shape (m, n).

    ``torch.mm`` calls the BLAS that torch was built with. Where that is MKL and the processor is not one of
    Intel's, it runs AVX2 kernels on AVX-512 processors: oneDNN's take half the time there. They round in
    another order, with the same error.

    Args:
        bias: of shape (n,).
        to: of shape (m, n), left as it is.

    >>> a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    >>> rows_times(a, b, bias=torch.tensor([0.5, 0.5]), to=torch.ones(1, 2))
    tensor([[12.5000, 18.5000]])
    """
    if pays(a, a.numel() * len(b)) and _suits(a) and _suits(b):
        linear = _linear()
        if to is None:
            return linear.default(a, b, bias, "none", [], "")  # type: ignore[no-any-return]
        return linear.binary(a, _dense(to), b, bias, "add")  # type: ignore[no-any-return]
    if to is None:
        return torch.mm(a, b.t()) if bias is None else torch.addmm(bias, a, b.t())
    found = torch.addmm(to, a, b.t())
    return found if bias is None else found.add_(bias)


def _suits(matrix: Tensor) -> bool:
    return matrix.is_contiguous() or matrix.t().is_contiguous()


def _dense(matrix: Tensor) -> Tensor:
    return matrix if matrix.is_contiguous() else matrix.contiguous()


@cache
def _linear() -> Any:
    """OneDNN's linear layer of dense tensors; ``None`` where it is missing or no faster."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    generator = torch.Generator().manual_seed(0)
    a, b, to = (torch.randn(*shape, generator=generator) for shape in ((64, 48), (48, 32), (64, 32)))
    try:  # another version of torch may have another signature
        found = linear.binary(a, to, b.t(), None, "add") + linear.default(a, b.t(), None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return None
    exact = 2 * (a.double() @ b.double()) + to
    return linear if torch.allclose(found.double(), exact, rtol=1e-4, atol=1e-4) else None
