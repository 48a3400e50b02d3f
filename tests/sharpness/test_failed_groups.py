"""A group that can't be computed on a network leaves the other rows; bad arguments are refused first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpbench.errors import InvalidInput
from sharpbench.sharpness import MEASURES, measure
from sharpbench.sharpness.groups import row_names


class Recurrent(nn.Module):
    """Returns its state too, so that there is no one output tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.readout = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        outputs, state = self.cell(x)
        return self.readout(outputs[:, -1]), state


def _regression() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return nn.Linear(3, 1), (torch.randn(20, 3, generator=generator), torch.zeros(20, 1))


def test_one_name_is_one_group() -> None:
    model, data = _regression()
    card = measure(model, F.mse_loss, data, measures="spectrum")
    assert {"loss", "trace", "lambda_min"} <= set(card.frame["measure"])
    with pytest.raises(InvalidInput, match="did you mean 'spectrum'"):
        measure(model, F.mse_loss, data, measures="spectrm")


def test_groups_that_need_a_classifier_lose_their_own_rows_only() -> None:
    model, data = _regression()
    card = measure(model, F.mse_loss, data, measures=("spectrum", "pac_bayes", "m_sharpness", "relative"))
    rows = card.frame.set_index("measure")
    for name in ("pac_bayes", "pac_bayes_sigma", "magnitude_pac_bayes", "m_sharpness"):
        assert rows.loc[name, ["value", "std_error", "ci_low", "ci_high"]].isna().all()
        assert not rows.loc[name, "converged"]
    assert "cross-entropy" in card.notes["pac_bayes"]
    assert "at least 2 subsets" in card.notes["m_sharpness"]
    assert rows.loc[["trace", "relative_flatness", "fisher_rao"], "value"].notna().all()
    assert not card.frame["measure"].duplicated().any()


def test_outputs_without_a_gauss_newton_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(20, 5, 3, generator=generator), torch.randint(0, 2, (20,), generator=generator))
    card = measure(
        Recurrent(),
        lambda outputs, labels: F.cross_entropy(outputs[0], labels),
        data,
        measures=("spectrum", "gauss_newton", "gradient_noise", "sam_sharpness"),
        hvps=10,
    )
    rows = card.frame.set_index("measure")["value"]
    assert rows[["ggn_trace", "ggn_lambda_1"]].isna().all()
    assert rows[["trace", "sam_sharpness", "lambda_1"]].notna().all()
    assert "one output tensor" in card.notes["ggn_trace"]


def test_an_error_of_torch_in_one_group_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = _regression()

    def fails(session: Any) -> None:
        raise RuntimeError("shapes do not match\nand more")

    monkeypatch.setitem(MEASURES, "worst_case", fails)
    card = measure(model, F.mse_loss, data, measures=("worst_case", "average_case"))
    assert list(card.frame["measure"])[2:] == [*row_names("worst_case", 5), *row_names("average_case", 5)]
    assert card.notes["worst_case"] == "not computed: RuntimeError: shapes do not match"
    assert card["average_case"] > 0


def test_the_names_are_those_of_the_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(70, 3, generator=generator), torch.randint(0, 3, (70,), generator=generator))
    for group in MEASURES:
        card = measure(nn.Linear(3, 3), F.cross_entropy, data, measures=group, hvps=6, top_k=2)
        assert set(row_names(group, 2)) <= set(card.frame["measure"]), group


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": "0.1"}, "rho must be > 0"),
        ({"rho": float("nan")}, "rho must be > 0"),
        ({"damping": None}, "damping must be > 0"),
        ({"hvps": 20.5}, "hvps must be a whole number"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"initial": {}, "measures": "capacity"}, "initial must hold"),
    ],
)
def test_bad_arguments_are_no_failed_group(arguments: dict[str, Any], message: str) -> None:
    model, data = _regression()
    with pytest.raises(InvalidInput, match=message):
        measure(model, F.mse_loss, data, **arguments)


def test_a_warm_start_of_another_network_is_refused() -> None:
    model, data = _regression()
    other = measure(nn.Linear(3, 2), F.mse_loss, (data[0], torch.zeros(20, 2)), measures="spectrum")
    with pytest.raises(InvalidInput, match="warm start"):
        measure(model, F.mse_loss, data, warm=other)
