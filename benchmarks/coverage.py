"""Coverage of the 95 % intervals on known spectra and on exact Hessians of seven small networks.

Run: ``python benchmarks/coverage.py [--processes 2]``. Cells that ``results/coverage.csv`` already holds
are not computed again, so the benchmark can be cut over several sessions; remove the file to begin anew.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accuracy import markdown
from known_spectra import Rotated, Values, spectra
from problems import RESULTS, MatrixOperator
from small_networks import NETWORKS, network

from sharpbench.sharpness import DenseSpectrum, Estimate, LossSurface, Spectrum, spectrum

SEEDS = 40
# A cell holds if so many intervals cover, and so many of those that are called converged.
FEWEST = 33
SHARE = 0.9
BUDGETS = (20, 50, 100, 200, 300)
DIMENSIONS = (3000, 30_000)
KEY = ["problem", "dimension", "hvps", "asked"]


def rows(found: Spectrum) -> dict[str, Estimate]:
    """The rows of a card, by name."""
    every = [found.trace(), found.frobenius_norm(), found.frobenius_squared(), found.log_determinant()]
    every += [found.log_determinant(relative=True).renamed("log_determinant, relative")]
    every += [*found.top_eigenvalues(5), found.bottom_eigenvalue()]
    return {each.name: each for each in every}


@lru_cache(maxsize=2)
def problem(name: str, dimension: int) -> tuple[Values, Callable[[], Rotated | MatrixOperator]]:
    """All eigenvalues, and how to make an operator that has them."""
    if name in NETWORKS:
        matrix = LossSurface(*network(name)).dense_hessian()
        single = matrix.float()
        return torch.linalg.eigvalsh(matrix).numpy(), lambda: MatrixOperator(single)
    values = spectra(dimension)[name]
    return values, lambda: Rotated(values)


def cell(name: str, dimension: int, hvps: int, asked: int) -> list[dict[str, object]]:
    """Coverage of every row over all seeds."""
    torch.set_num_threads(1)
    values, make = problem(name, dimension)
    truth = rows(DenseSpectrum(values, 0))
    seen: dict[str, list[tuple[bool, bool, float, float]]] = {key: [] for key in truth}
    for seed in range(SEEDS):
        for key, row in rows(spectrum(make(), hvps=hvps, seed=seed, eigenvalues=asked)).items():
            size = abs(truth[key].value) or 1.0
            error = (row.value - truth[key].value) / size
            covers = row.contains(truth[key].value)
            seen[key].append((covers, row.converged, error, row.half_width / size))
    found = []
    for key, outcomes in seen.items():
        covers, converged, errors, widths = (np.array(column) for column in zip(*outcomes, strict=True))
        known = bool(np.isfinite(errors).any())
        found.append(
            {
                "problem": name, "dimension": len(values), "hvps": hvps, "asked": asked, "row": key,
                "covered": int(covers.sum()), "converged": int(converged.sum()),
                "converged_and_covered": int((covers & converged).sum()),
                "bias_percent": round(100 * float(np.nanmean(errors)), 3) if known else np.nan,
                "half_width_percent": round(100 * float(np.median(widths)), 3),
            }
        )  # fmt: skip
    return found


def cells() -> Iterator[tuple[str, int, int, int]]:
    """The cheap ones first."""
    for dimension in (0, *DIMENSIONS):
        names = list(spectra(1000)) if dimension else list(NETWORKS)
        for hvps in BUDGETS:
            yield from ((name, dimension, hvps, asked) for name in names for asked in (0, 5))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    processes = parser.parse_args().processes
    path = RESULTS / "coverage.csv"
    done = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=KEY)
    known = set(done[KEY].itertuples(index=False, name=None))
    sizes = {name: int(size) for name, size in done.groupby("problem")["dimension"].first().items()}
    wanted = [c for c in cells() if (c[0], c[1] or sizes.get(c[0], -1), *c[2:]) not in known]
    frames = [done] if len(done) else []
    with ProcessPoolExecutor(processes) as pool:
        for future in as_completed([pool.submit(cell, *each) for each in wanted]):
            frames.append(pd.DataFrame(future.result()))
            write(pd.concat(frames, ignore_index=True), path)
    write(pd.concat(frames, ignore_index=True), path)


def write(frame: pd.DataFrame, path: Path) -> None:
    """The table of all cells, and its summary."""
    frame = frame.sort_values([*KEY, "row"], kind="stable").reset_index(drop=True)
    temporary = path.with_suffix(".tmp")
    frame.to_csv(temporary, index=False)
    temporary.replace(path)
    right = frame["converged_and_covered"] >= SHARE * frame["converged"]
    frame["holds"] = (frame["covered"] >= FEWEST) & right
    frame["covered_percent"] = 100 * frame["covered"] / SEEDS
    frame["kind"] = np.where(frame["problem"].isin(list(NETWORKS)), "networks", "spectra")
    frame.loc[frame["kind"] == "networks", "dimension"] = 0
    groups = frame.groupby(["kind", "dimension", "row"])
    summary = groups.agg(
        cells=("holds", "size"), hold=("holds", "sum"), lowest=("covered_percent", "min"),
        mean=("covered_percent", "mean"), converged=("converged", "sum"),
        right=("converged_and_covered", "sum"),
    ).reset_index()  # fmt: skip
    summary["converged_percent"] = (100 * summary["converged"] / (SEEDS * summary["cells"])).round(1)
    summary["right_percent"] = (100 * summary["right"] / summary["converged"]).round(1)
    summary["mean"] = summary["mean"].round(1)
    summary["dimension"] = summary["dimension"].replace(0, "1441 to 1942")
    default = (frame["row"] == "log_determinant") & (frame["hvps"] == 100) & (frame["asked"] == 5)
    biases = frame.loc[
        default & (frame["kind"] == "networks"), ["problem", "bias_percent", "half_width_percent"]
    ]
    failing = frame.loc[~frame["holds"], [*KEY, "row", "covered", "converged", "converged_and_covered"]]
    text = (
        f"# Coverage of the intervals\n\n{len(frame)} cells, each a row of one problem at one budget with no "
        f"or five eigenvalues asked for, {SEEDS} seeds. A cell holds if at least {FEWEST} intervals cover "
        f"the exact value and at least {SHARE:.0%} of those called converged do: "
        f"**{int(frame['holds'].sum())} of {len(frame)}** hold. Budgets: "
        f"{', '.join(map(str, sorted(frame['hvps'].unique())))} products (not all for every dimension: "
        "see the table of all cells, `coverage.csv`). `lowest` and `mean` are the share of covered values in "
        "the worst cell and on average; `right_percent` that among the converged. "
        "`python benchmarks/coverage.py`.\n\n"
    )
    columns = [
        "kind", "dimension", "row", "cells", "hold", "lowest", "mean", "converged_percent", "right_percent"
    ]  # fmt: skip
    text += markdown(summary[columns]) + "\n\n## Cells that do not hold\n\n"
    text += (markdown(failing) if len(failing) else "None.") + "\n\n"
    text += "## Bias of the log-determinant of the networks at 100 products\n\n" + markdown(biases) + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
