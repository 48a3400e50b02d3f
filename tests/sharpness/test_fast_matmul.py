"""Matrix products by faster kernels: the same products."""

from __future__ import annotations

import pytest
import torch

from sharpbench.sharpness.fast_matmul import at_any_size, pays, rows_times


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(64, 96, 33), (1, 5, 2), (3, 1, 4)])
def test_matrix_products_in_every_layout(dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    m, k, n = sizes
    layouts = [
        lambda rows, columns: torch.randn(rows, columns, dtype=dtype),
        lambda rows, columns: torch.randn(columns, rows, dtype=dtype).t(),
        lambda rows, columns: torch.randn(rows, 2 * columns, dtype=dtype)[:, ::2],
        lambda rows, columns: torch.randn(1, columns, dtype=dtype).expand(rows, columns),
    ]
    bias = torch.randn(n, dtype=dtype)
    for left in layouts:
        for right in layouts:
            a, b, to = left(m, k), right(n, k), left(m, n)
            kept = to.clone()
            exact = a.double() @ b.double().t()
            with at_any_size():
                found = [rows_times(a, b), rows_times(a, b, bias), rows_times(a, b, to=to)]
                found.append(rows_times(a, b, bias, to))
            wanted = [exact, exact + bias, exact + to, exact + bias + to]
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one.double(), other.double(), rtol=1e-5, atol=1e-5)
            assert torch.equal(to, kept)


def test_small_and_double_precision_products_stay_with_the_blas() -> None:
    assert not pays(torch.ones(1), 1000)
    assert not pays(torch.ones(1, dtype=torch.float64), 10**9)
    with at_any_size():
        assert not pays(torch.ones(1, dtype=torch.float64), 10**9)
        with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
            assert not pays(torch.ones(1), 10**9)
