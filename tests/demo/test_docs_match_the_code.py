"""The documentation names what exists, with the defaults it has, and its examples run."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

from sharpbench.optim import OPTIMIZERS
from sharpbench.optim.diagnostics import Diagnostics

DOCS = Path(__file__).parents[2] / "docs"


def documented_rows(page):
    """First cells in back ticks → the whole row."""
    rows = {}
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                rows.setdefault(name, line)
    return rows


@pytest.mark.parametrize("page", ["optimizers.md", "measures.md"])
def test_the_examples_run(page):
    result = doctest.testfile(
        str(DOCS / page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert result.attempted > 3
    assert result.failed == 0


@pytest.mark.parametrize("name", [n for n, entry in OPTIMIZERS.items() if not entry.needs_object])
def test_every_optimizer_is_documented_with_its_defaults(name):
    rows = documented_rows("optimizers.md")
    assert name in rows, f"{name} needs a row in docs/optimizers.md"
    row = rows[name]
    for parameter in (
        "rho",
        "alpha",
        "eta",
        "theta",
        "floor",
        "sigma",
        "gamma",
        "weight",
        "n_samples",
        "k",
        "p",
    ):
        default = OPTIMIZERS[name].parameters.get(parameter, inspect.Parameter.empty)
        if default is inspect.Parameter.empty or default is None:
            continue
        written = f"{default:g}".removeprefix("0") if default != 0 else "0"
        assert re.search(rf"\b{parameter} {re.escape(written)}(?![\d.])", row), (
            f"{parameter} {written}: {row}"
        )


def documented_diagnostics():
    section = (
        (DOCS / "optimizers.md").read_text(encoding="utf-8").split("## Diagnostics")[1].split("\n## ")[0]
    )
    return set(re.findall(r"^\| `(\w+)`", section, flags=re.M))


def test_every_diagnostic_is_documented():
    names = re.findall(r"^    ``(\w+)``", inspect.getsource(Diagnostics), flags=re.M)
    assert set(names) == documented_diagnostics()


def test_every_documented_optimizer_exists():
    rows = (DOCS / "optimizers.md").read_text(encoding="utf-8")
    chosen = rows.split("## Which one?")[1].split("## Where to look")[0]
    named = set(re.findall(r"`(\w+)`", chosen))
    assert named <= set(OPTIMIZERS), named - set(OPTIMIZERS)
    others = {"sampling", '"plain"', '"antithetic"', *documented_diagnostics()}
    tables = set(documented_rows("optimizers.md")) - others
    assert tables <= set(OPTIMIZERS), tables - set(OPTIMIZERS)


def test_every_row_of_the_format_is_explained():
    formats = (DOCS / "formats.md").read_text(encoding="utf-8")
    names = re.findall(r"`([^`]+)`", formats.split("## Names in `measures.parquet`")[1])
    explained = (DOCS / "measures.md").read_text(encoding="utf-8")
    for name in names:
        short = name.replace("@radius", "")
        assert f"`{short}`" in explained, name
    assert "`phi_psi_mu:…@radius`" in explained
