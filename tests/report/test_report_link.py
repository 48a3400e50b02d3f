"""The link between sharpness and gap: shown where it is, not where two numbers merely have the same grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from sharpbench.report import Frames, generalization_link, kendall
from sharpbench.report.columns import METRICS
from sharpbench.report.evidence import Evidence, intervals
from sharpbench.report.layout import crossed, grouped
from sharpbench.report.pairs import mean_signs, rearranged
from sharpbench.report.plan import Plan, PlannedRun

COEFFICIENTS = ("within", "kendall", "spearman", "pearson", "granulated")


def grid(*sizes: int) -> np.ndarray:
    return np.array(list(np.ndindex(*sizes)))


def main_effects(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An effect of the optimizer, one of the condition, and the noise of the run."""
    effects = [rng.normal(size=places[:, axis].max() + 1)[places[:, axis]] for axis in (0, 1)]
    return effects[0] + effects[1] + 0.5 * rng.normal(size=len(places))


def frames_of(places: np.ndarray, y: np.ndarray, measures: dict[str, dict[str, np.ndarray]]) -> Frames:
    """Finished runs with these gaps and measures (columns of the measures frame)."""
    ids = [f"{place:016x}" for place in range(len(places))]
    planned = tuple(
        PlannedRun(run, f"o{o}", "o", {}, {"label_noise": int(c)}, int(s), {})
        for run, (o, c, s) in zip(ids, places, strict=True)
    )
    runs = pd.DataFrame(
        {
            "run_id": ids,
            "optimizer": [run.optimizer for run in planned],
            "condition": [run.condition_label for run in planned],
            "label_noise": places[:, 1],
            "seed": places[:, 2],
            "status": "done",
        }
    ).assign(**dict.fromkeys(METRICS, np.nan))
    runs["accuracy_gap"] = y
    tables = []
    for name, columns in measures.items():
        table = pd.DataFrame({"run_id": ids, "measure": name, **columns})
        for column in ("std_error", "ci_low", "ci_high"):
            table[column] = table.get(column, np.nan)
        runs[name] = table["value"].to_numpy()
        runs[f"{name}_std_error"] = table["std_error"].to_numpy(dtype="float64")
        table["converged"] = pd.array(table.get("converged", [True] * len(ids)), dtype="boolean")
        tables.append(table)
    plan = Plan("", "", "", "", ("label_noise",), None, planned, ())
    nothing = pd.DataFrame()
    return Frames(runs, nothing, pd.concat(tables), nothing, plan, {}, ())


def link_of(places: np.ndarray, y: np.ndarray, **columns: np.ndarray) -> pd.Series:
    return generalization_link(frames_of(places, y, {"m": columns})).iloc[0]


def shown(row: pd.Series, name: str) -> bool:
    return bool(row[f"{name}_low"] > 0 or row[f"{name}_high"] < 0)


@pytest.mark.parametrize(("sizes", "lognormal"), [((12, 3, 2), False), ((6, 2, 3), True)])
def test_main_effects_of_both_are_no_link(sizes: tuple[int, int, int], lognormal: bool) -> None:
    """Cells that share an optimizer or a condition: a bootstrap over cells shows a link in up to 60 %."""
    places, rng, count = grid(*sizes), np.random.default_rng(0), 60
    found = dict.fromkeys(COEFFICIENTS, 0)
    for _ in range(count):
        x, y = main_effects(places, rng), main_effects(places, rng)
        row = link_of(places, y, value=np.exp(2.0 * x) if lognormal else x)
        for name in COEFFICIENTS:
            found[name] += shown(row, name)
    assert max(found.values()) <= 0.1 * count, found


def test_a_true_link_is_shown() -> None:
    places, rng, count = grid(6, 2, 3), np.random.default_rng(1), 40
    found = dict.fromkeys(COEFFICIENTS, 0)
    for _ in range(count):
        x = main_effects(places, rng)
        row = link_of(places, 3.0 * x + main_effects(places, rng), value=x)
        for name in COEFFICIENTS:
            found[name] += shown(row, name)
    assert min(found.values()) >= 0.9 * count, found


def test_the_number_of_measures_is_corrected_for() -> None:
    places, rng, count = grid(8, 2, 1), np.random.default_rng(2), 12
    alone = families = 0
    for _ in range(count):
        measures = {f"m{i}": {"value": main_effects(places, rng)} for i in range(12)}
        y = main_effects(places, rng)
        families += any(
            shown(row, "within") for _, row in generalization_link(frames_of(places, y, measures)).iterrows()
        )
        alone += any(shown(link_of(places, y, **columns), "within") for columns in measures.values())
    # Twelve independent measures, each at 5 %: uncorrected, 46 % of families show one or more.
    assert families <= 1
    assert alone >= 3


def test_what_equals_the_critical_value_is_no_link() -> None:
    """Numbers of pairs are whole, so that coefficients are tied: here at 1/3, which 11 % reach."""
    permuted = np.concatenate([[1 / 3] * 100, [0.5] * 10, np.linspace(-0.3, 0.3, 890)])
    found = intervals([Evidence(1 / 3, permuted, np.array([0.2, 0.4]), 30, 10)])[0]
    assert found.p == pytest.approx(0.11)
    assert found.low <= 0.0
    assert not found.shows_a_link


def test_copies_of_a_measure_cost_nothing() -> None:
    """The correction is for what the measures can do together, not for how many they are."""
    rng = np.random.default_rng(3)
    one = Evidence(0.5, rng.normal(size=1000), np.array([0.4, 0.6]), 30, 10)
    assert intervals([one] * 12)[0] == intervals([one])[0]


def test_two_conditions_can_prove_nothing_of_conditions() -> None:
    places, rng = grid(6, 2, 3), np.random.default_rng(4)
    x = main_effects(places, rng) + 10.0 * places[:, 1]
    row = link_of(places, x + 0.01 * rng.normal(size=len(x)), value=x)
    assert row["granulated_label_noise"] == 1.0
    assert math.isnan(row["granulated_label_noise_low"])
    assert row["reason_granulated_label_noise"].startswith("too few optimizers and conditions")
    assert row["within_low"] > 0


def test_a_shift_between_two_conditions_is_no_link_over_all() -> None:
    """Both numbers are higher in one of two conditions, and unrelated otherwise."""
    places, rng = grid(10, 2, 3), np.random.default_rng(5)
    x, y = (5.0 * places[:, 1] + main_effects(places, rng) for _ in range(2))
    row = link_of(places, y, value=x)
    assert row["kendall"] > 0.4
    assert not shown(row, "kendall")


def test_one_condition_leaves_the_optimizers() -> None:
    places, rng = grid(8, 1, 3), np.random.default_rng(6)
    x = main_effects(places, rng)
    row = link_of(places, 3.0 * x + main_effects(places, rng), value=x)
    assert row["kendall"] == row["within"]
    assert row["kendall_low"] > 0


# What did not converge.


def _linked(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    places = grid(10, 3, 2)
    x = np.exp(1.5 * main_effects(places, rng))
    return places, x, np.log(x) + 0.3 * main_effects(places, rng)


def test_a_bound_is_left_out_and_counted() -> None:
    places, x, y = _linked(np.random.default_rng(7))
    bound = np.arange(len(x)) % 4 == 0
    value = np.where(bound, 1e9 * np.arange(len(x)), x)  # whatever a bound says, it must not count
    row = link_of(places, y, value=value, converged=~bound)
    assert (row["runs"], row["left_out"], row["unconverged"]) == (45, 15, 0)
    clean = generalization_link(frames_of(places, y, {"m": {"value": np.where(bound, np.nan, x)}})).iloc[0]
    assert row["within"] == clean["within"]
    assert row["within_low"] == clean["within_low"] > 0


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_mostly_bounds_is_no_link(share: float) -> None:
    places, x, y = _linked(np.random.default_rng(8))
    converged = np.arange(len(x)) >= share * len(x)
    row = link_of(places, y, value=x, converged=converged)
    assert row["left_out"] == round(share * len(x))
    assert not any(shown(row, name) for name in COEFFICIENTS)
    assert row["reason_within"]


def test_a_small_error_keeps_the_link_and_a_large_one_loses_it() -> None:
    places, x, y = _linked(np.random.default_rng(9))
    no = np.zeros(len(x), dtype=bool)
    exact = link_of(places, y, value=x)
    small = link_of(places, y, value=x, std_error=0.04 * x, converged=no)
    assert small["unconverged"] == len(x)
    assert small["left_out"] == 0
    assert small["within"] == exact["within"]
    assert small["within_low"] > 0.5 * exact["within_low"] > 0
    large = link_of(places, y, value=x, ci_low=x / 1e4, ci_high=x * 1e4, converged=no)
    assert large["within_low"] < 0 < large["within_high"]
    # The error can't make the interval narrower.
    assert large["within_high"] - large["within_low"] > exact["within_high"] - exact["within_low"]


def test_any_interval_is_taken_for_what_it_is() -> None:
    """Asymmetric, infinite, missing, not around the value: an error where there is one, else a bound."""
    places, x, y = _linked(np.random.default_rng(10))
    low, high, error = 0.8 * x, 1.5 * x, np.full(len(x), np.nan)
    high[0], low[1], high[2], low[3] = math.inf, math.nan, math.nan, -math.inf  # bounds
    low[4], high[5] = 2.0 * x[4], 0.5 * x[5]  # not around the value
    low[6] = high[6] = x[6]  # an error of zero that did not converge
    error[7], low[7], high[7] = 0.1 * x[7], math.nan, math.nan  # a standard error alone
    row = link_of(places, y, value=x, std_error=error, ci_low=low, ci_high=high, converged=x < 0)
    assert (row["runs"], row["left_out"], row["unconverged"]) == (len(x) - 7, 7, len(x) - 7)
    assert row["within_low"] > 0
    assert row["pearson_scale"] == "log10"


# The rearrangements.


def test_all_rearrangements_of_a_small_grid() -> None:
    layout = crossed([o for o, _ in grid(3, 2)], [c for _, c in grid(3, 2)])
    assert len({tuple(move) for move in layout.moves.tolist()}) == len(layout.moves) == 12
    assert layout.moves[0].tolist() == list(range(6))


def test_conditions_of_several_axes_exchange_the_values_of_an_axis() -> None:
    """Two networks times three noise levels: 2! · 3! arrangements, not 6!."""
    conditions = list(itertools.product("mc", (0, 1, 2)))
    layout = crossed(["sgd"] * 6, conditions)
    assert len(layout.moves) == 12
    for move in layout.moves:
        networks = [conditions[place][0] for place in move]
        assert networks in (list("mmmccc"), list("cccmmm"))


def test_an_incomplete_grid_of_conditions_stays_itself() -> None:
    """Noise levels with all of the data, and a tenth of the data without noise."""
    conditions = [(0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (0.0, 0.1)]
    moves = crossed(["sgd"] * 4, conditions).moves
    # Only the two noisy conditions can be exchanged.
    assert sorted(map(tuple, moves.tolist())) == [(0, 1, 2, 3), (0, 2, 1, 3)]


def test_clusters_stay_in_their_block() -> None:
    moves = grouped("aabbccdd", "xxxxyyyy").moves
    assert len(moves) == 4
    assert all(set(move[:2]) == {0, 1} for move in moves.tolist())


def test_a_rearrangement_is_that_of_the_runs_written_out() -> None:
    """One seed a cell: moving cells is moving values, and tau is scipy's own."""
    from scipy import stats

    rng = np.random.default_rng(11)
    places = grid(5, 3)
    x, y = rng.normal(size=(2, 15))
    layout = crossed(list(places[:, 0]), list(places[:, 1]))
    pairs = np.triu_indices(15, 1)
    signs = [mean_signs(values, layout.cells, 15) for values in (x, y)]
    found = rearranged(signs[0], signs[1][pairs], pairs, np.ones(len(pairs[0])), layout.moves)
    for move, total in zip(layout.moves[:40], found, strict=False):
        assert total / 105 == pytest.approx(stats.kendalltau(x[move], y)[0], abs=1e-12)


def test_a_plain_label_and_a_pair_are_different_clusters() -> None:
    """Sixty cells that share twelve optimizers and five conditions are not sixty independent things."""
    places, rng = grid(12, 5, 1), np.random.default_rng(12)
    x, y = main_effects(places, rng), main_effects(places, rng)
    pairs = [(int(o), int(c)) for o, c, _ in places]
    crossed_width, cells_width = (
        found.high - found.low for found in (kendall(x, y, pairs), kendall(x, y, list(map(str, pairs))))
    )
    assert crossed_width > 1.3 * cells_width
