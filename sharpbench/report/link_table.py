"""The link between sharpness and generalization as a table of the page."""

from __future__ import annotations

import pandas as pd

from .columns import describe_measure
from .display import DASH, interval, p_value, signed
from .html_table import HtmlCell, HtmlTable, sort_key
from .link import GAPS, LINK_COLUMNS

RUNS_HELP = (
    "finished runs that take part; ~ of these, how many did not reach the precision (their error is part of "
    "the intervals); − how many more are left out, because they have the measure only as a bound"
)


def link_table(gap: str, rows: pd.DataFrame) -> HtmlTable:
    """All coefficients of one gap; those whose interval leaves out zero are bold."""
    axes = [
        name.removeprefix("granulated_")
        for name in rows.columns
        if name.startswith("granulated_") and not name.endswith(("_low", "_high"))
    ]
    coefficients = {
        "within": "Kendall τ within",
        "kendall": "Kendall τ",
        "spearman": "Spearman ρ",
        "pearson": "Pearson r",
        "granulated": "Ψ (mean)",
    } | {f"granulated_{axis}": f"ψ {axis}" for axis in axes}
    heads = [("Measure", LINK_COLUMNS["measure"], ""), ("Runs", RUNS_HELP, "")]
    for name, title in coefficients.items():
        axis = name.removeprefix("granulated_")
        heads.append(
            (title, LINK_COLUMNS.get(name, f"granulated Kendall ψ: pairs that differ only in {axis}"), "")
        )
    table = []
    for _, row in rows.iterrows():
        line = [
            HtmlCell(describe_measure(row["measure"]).title, row["measure"], "name"),
            HtmlCell(link_runs_text(row), str(row["runs"]), "number"),
        ]
        line += [_link_cell(row, name) for name in coefficients]
        table.append(line)
    return HtmlTable(GAPS[gap], heads, table)


def link_runs_text(row: pd.Series) -> str:
    """How many runs take part; ``~`` those whose error is large, ``−`` those left out.

    >>> link_runs_text(pd.Series({"runs": 30, "unconverged": 4, "left_out": 6}))
    '30 ~4 −6'
    """
    text = str(row["runs"])
    text += f" ~{row['unconverged']}" if row["unconverged"] else ""
    return text + (f" −{row['left_out']}" if row["left_out"] else "")


def _link_cell(row: pd.Series, name: str) -> HtmlCell:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    span = interval(low, high)
    linked = low > 0 or high < 0
    reason, p = row[f"reason_{name}"], row[f"p_{name}"]
    note = f"corrected p {p_value(p)}" if span != DASH else reason if isinstance(reason, str) else ""
    return HtmlCell(
        signed(row[name]) + ("" if span == DASH else f" {span}"),
        sort_key(row[name]),
        "number linked" if linked else "number",
        note,
    )
