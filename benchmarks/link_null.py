"""How often the report shows a link between sharpness and gap where there is none, and where there is one.

Run: ``python benchmarks/link_null.py`` (about ten minutes on one core). Writes link_null.md and link_null.csv
in benchmarks/results.

Each simulation goes through :func:`sharpbench.report.generalization_link`, as a report does. Sharpness and
gap of the run with optimizer o, condition c and seed s are

    x = a_o + b_c + g_s + e,    y = slope · x + a'_o + b'_c + g'_s + e',

all effects independent standard normals except e and e' (standard deviation .5) and the effects of the
seeds, which are zero but for the rows that name them. Without a link, the slope is 0. A true link is a
slope of 3, which gives Kendall's tau of about .8 within conditions; the quickstart suite has .86.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from sharpbench.report import Frames, generalization_link
from sharpbench.report.columns import METRICS
from sharpbench.report.plan import Plan, PlannedRun

RESULTS = Path(__file__).parent / "results"
# A share of 5 % is then known to one percent, so that 8 % can be told from it.
SIMULATIONS = 400
# Of shares near 1, for which fewer will do.
LINKED_SIMULATIONS = 80
COEFFICIENTS = ("within", "kendall", "spearman", "pearson", "granulated")
AXES = ("granulated_optimizer", "granulated_condition")
SLOPE = 3.0


@dataclass(frozen=True)
class Setting:
    """A design and what is put into it."""

    optimizers: int
    conditions: int
    seeds: int
    what: str = "main effects of both"
    slope: float = 0.0
    seed_effect: float = 0.0
    interaction: float = 0.0
    lognormal: bool = False
    missing: float = 0.0
    measures: int = 1
    # Half the width of the 95 % interval of unconverged values, as a share of the spread; 0: all converged.
    error: float = 0.0

    @property
    def design(self) -> str:
        return f"{self.optimizers} × {self.conditions} × {self.seeds}"


DESIGNS = [Setting(30, 10, 3), Setting(10, 10, 5), Setting(30, 3, 2), Setting(6, 2, 3)]


def settings() -> Iterator[Setting]:
    yield from DESIGNS
    for design in DESIGNS[2:]:
        yield replace(design, seed_effect=1.0, what="seeds share an effect too")
        yield replace(design, lognormal=True, missing=0.15, what="lognormal sharpness, 15 % of runs diverged")
    yield replace(DESIGNS[3], interaction=1.0, what="effects of each pair of optimizer and condition too")
    yield replace(DESIGNS[3], measures=5, what="five measures, one or more linked")
    yield replace(DESIGNS[2], error=1.0, what="unconverged values, error as large as the spread")
    for design in DESIGNS:
        yield replace(design, slope=SLOPE, what="a true link")
    yield replace(DESIGNS[3], slope=SLOPE, measures=5, what="a true link of five measures, one of them")
    yield replace(
        DESIGNS[2], slope=SLOPE, error=0.1, what="a true link, unconverged, error 10 % of the spread"
    )


def simulated(setting: Setting, generator: np.random.Generator) -> Frames:
    """One suite's frames, without files."""
    sizes = (setting.optimizers, setting.conditions, setting.seeds)
    places = np.array(list(np.ndindex(sizes)))

    def numbers() -> np.ndarray:
        one, other, seed = (generator.standard_normal(size)[places[:, i]] for i, size in enumerate(sizes))
        both = generator.standard_normal(sizes[:2])[places[:, 0], places[:, 1]]
        noise = 0.5 * generator.standard_normal(len(places))
        return one + other + setting.seed_effect * seed + setting.interaction * both + noise

    x = [numbers() for _ in range(setting.measures)]
    y = numbers() + setting.slope * x[0]
    kept = generator.random(len(places)) >= setting.missing
    runs = pd.DataFrame(
        {
            "run_id": [f"{place:016x}" for place in range(len(places))],
            "optimizer": [f"o{o}" for o, _, _ in places],
            "condition": [f"condition = {c}" for _, c, _ in places],
            "seed": places[:, 2],
            "status": np.where(kept, "done", "diverged"),
        }
    )
    runs["condition_axis"] = runs["condition"]
    runs = runs.assign(**dict.fromkeys(METRICS, np.nan))
    runs["accuracy_gap"] = np.where(kept, y, np.nan)
    tables = []
    for place, values in enumerate(x):
        half = setting.error * values.std()
        wrong = values + half / 1.96 * generator.standard_normal(len(values))
        shown = np.exp(2.0 * wrong) if setting.lognormal else wrong
        rows = pd.DataFrame({"run_id": runs["run_id"], "measure": f"m{place}", "value": shown})
        rows = rows.assign(std_error=half / 1.96, ci_low=shown - half, ci_high=shown + half)
        rows["converged"] = pd.array([half == 0.0] * len(rows), dtype="boolean")
        tables.append(rows[kept])
        runs[f"m{place}"] = np.where(kept, shown, np.nan)
    planned = tuple(
        PlannedRun(row.run_id, row.optimizer, "o", {}, {"condition": row.condition[12:]}, row.seed, {})
        for row in runs.itertuples()
    )
    runs["condition"] = [run.condition_label for run in planned]
    plan = Plan("", "", "", "", ("condition_axis",), None, planned, ())
    nothing = pd.DataFrame()
    return Frames(runs, nothing, pd.concat(tables), nothing, plan, {}, ())


def shares(setting: Setting, simulations: int) -> dict[str, float]:
    """The share of simulations with a link, for each coefficient; ``no interval`` for Kendall within."""
    generator = np.random.default_rng(0)
    names = (*COEFFICIENTS, *AXES)
    found = dict.fromkeys((*names, "no_interval"), 0.0)
    for _ in range(simulations):
        link = generalization_link(simulated(setting, generator))
        link = link[link["gap"] == "accuracy_gap"].rename(columns=lambda name: name.replace("_axis", ""))
        # Measures without a true link count only where there is none at all.
        rows = link if setting.slope == 0 else link.head(1)
        for name in names:
            found[name] += bool(((rows[f"{name}_low"] > 0) | (rows[f"{name}_high"] < 0)).any())
        found["no_interval"] += bool(rows["within_low"].isna().any())
    return {name: count / simulations for name, count in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args()
    count = chosen.simulations
    rows = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        every = list(settings())
        counts = [min(count, LINKED_SIMULATIONS) if setting.slope else count for setting in every]
        for setting, found in zip(every, pool.map(shares, every, counts), strict=True):
            rows.append({"design": setting.design, "data": setting.what, "slope": setting.slope, **found})
            print(*rows[-1].values(), flush=True)
    frame = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "link_null.csv", index=False)
    (RESULTS / "link_null.md").write_text(text(frame, count), encoding="utf-8")


def text(frame: pd.DataFrame, count: int) -> str:
    """The two tables."""
    titles = ["Kendall τ within", "Kendall τ", "Spearman ρ", "Pearson r", "Ψ", "ψ optimizer", "ψ condition"]
    head = "| optimizers × conditions × seeds | data | " + " | ".join(titles) + " | no interval |\n"
    head += "|---|---|" + "---|" * (len(titles) + 1) + "\n"

    def table(rows: pd.DataFrame) -> str:
        lines = [
            f"| {row['design']} | {row['data']} | "
            + " | ".join(f"{row[name]:.3f}" for name in (*COEFFICIENTS, *AXES, "no_interval"))
            + " |\n"
            for _, row in rows.iterrows()
        ]
        return head + "".join(lines)

    error = 100 * (0.05 * 0.95 / count) ** 0.5
    return (
        "# Links that are not there, and links that are\n\n"
        f"Share of {count} simulations ({min(count, LINKED_SIMULATIONS)} with a true link) in which the "
        f"report shows a link; 5 % are known to ± {error:.0f} percent. Sharpness and gap have main effects "
        "of the optimizer and of the condition, independent of each other, and the noise of the run. "
        "“No interval” is the share without one for τ within. `python benchmarks/link_null.py`.\n\n"
        f"## No link: at most .05 is promised\n\n{table(frame[frame['slope'] == 0])}\n"
        f"## A true link: gap = {SLOPE:g} · sharpness + main effects of both (τ within about .8)\n\n"
        "ψ along the conditions alone compares as many independent things as there are conditions; with two "
        f"or three of them it is hardly ever significant.\n\n{table(frame[frame['slope'] != 0])}"
    )


if __name__ == "__main__":
    main()
