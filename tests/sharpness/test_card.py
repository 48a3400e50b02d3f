"""measure(): the table's columns and names are a contract."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from torch.nn import functional as F

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import MEASURES, measure

COLUMNS = ["measure", "value", "std_error", "ci_low", "ci_high", "hvps", "gradients", "seconds", "converged"]
NAMES = [
    "loss", "grad_norm", "trace", "frobenius_norm", "frobenius_squared", "log_determinant",
    "lambda_1", "lambda_2", "lambda_3", "lambda_4", "lambda_5", "lambda_min", "sam_sharpness",
    "phi_psi_mu:trace", "phi_psi_mu:frobenius_squared", "phi_psi_mu:log_det",
    "phi_psi_mu:trace@radius", "phi_psi_mu:frobenius_squared@radius", "phi_psi_mu:log_det@radius",
]  # fmt: skip


def test_rows_columns_and_values(trained: Any) -> None:
    card = measure(trained.model, F.cross_entropy, trained.data, hvps=60, seed=1)
    assert list(card.frame.columns) == COLUMNS
    assert list(card.frame["measure"]) == NAMES
    assert card.frame["converged"].dtype == bool
    assert not card.frame.drop(columns=["measure"]).isna().any().any()
    assert card["trace"] == pytest.approx(trained.eigenvalues.sum(), rel=0.03)
    assert card["lambda_1"] == pytest.approx(trained.eigenvalues[-1], rel=1e-4)
    assert card["phi_psi_mu:trace"] == pytest.approx(trained.eigenvalues.sum(), rel=0.03)
    assert card["loss"] == pytest.approx(trained.surface.loss(), rel=1e-6)
    assert list(card.density.columns) == ["eigenvalue", "density", "std_error"]
    assert card.spectrum is not None
    assert "delta = 0.01" in card.notes["log_determinant"]
    assert int(card.frame.set_index("measure").loc["trace", "hvps"]) == 60


def test_same_seed_same_table_up_to_the_clock(trained: Any) -> None:
    frames = [
        measure(trained.model, F.cross_entropy, trained.data, hvps=30, seed=5).frame.drop(columns="seconds")
        for _ in range(2)
    ]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_groups_are_optional_and_the_table_survives_parquet(trained: Any, tmp_path: Any) -> None:
    card = measure(trained.model, F.cross_entropy, trained.data, measures=("sam_sharpness", "average_case"))
    assert list(card.frame["measure"]) == [
        "loss", "grad_norm", "sam_sharpness", "average_case", "adaptive_average_case"
    ]  # fmt: skip
    assert card.spectrum is None
    assert card.density.empty
    card.frame.to_parquet(tmp_path / "measures.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "measures.parquet"), card.frame)


def test_universal_alone_builds_its_own_basis(trained: Any) -> None:
    card = measure(trained.model, F.cross_entropy, trained.data, measures=("universal",), hvps=60)
    assert card["phi_psi_mu:frobenius_squared"] == pytest.approx((trained.eigenvalues**2).sum(), rel=0.01)


def test_every_group_runs(trained: Any) -> None:
    card = measure(trained.model, F.cross_entropy, trained.data, measures=tuple(MEASURES), hvps=20)
    assert {"worst_case", "average_case"} <= set(card.frame["measure"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": ("spectrm",)}, "did you mean 'spectrum'"),
        ({"rho": 0.0}, "rho must be > 0"),
        ({"damping": -1.0}, "damping must be > 0"),
        ({"hvps": 3}, "hvps must be >= 6"),
        ({"top_k": 0}, "top_k must be >= 1"),
    ],
)
def test_bad_arguments_are_refused(trained: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        measure(trained.model, F.cross_entropy, trained.data, **arguments)


def test_a_missing_row_is_named(trained: Any) -> None:
    card = measure(trained.model, F.cross_entropy, trained.data, measures=("sam_sharpness",))
    with pytest.raises(InvalidInput, match="unknown measure 'trace'"):
        card["trace"]
