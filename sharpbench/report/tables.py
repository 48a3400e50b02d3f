"""The leaderboard for the terminal (rich), for a README (Markdown) and for programs (CSV)."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .columns import HEADLINE_MEASURES, describe_measure
from .display import DASH, fixed, interval, measured, p_value, plus_minus, signed
from .sweeps import sweep_warning

TERMINAL_WIDTH = 110
# The terminal has room for three; Markdown and the page show all.
TERMINAL_MEASURES = ("trace", "frobenius_norm", "lambda_1")
MARKS = {"better": "▲", "worse": "▼"}
COLOURS = {"better": "green", "worse": "red"}


@dataclass(frozen=True)
class Cell:
    """A column of the shown table: its heading, the leaderboard's column, and how a row fills it."""

    heading: str
    column: str
    text: Callable[[pd.Series], str]


def runs_text(row: pd.Series) -> str:
    """How many of the planned runs are done, and what became of the others; the rate at which they diverge.

    >>> counts = {"n_done": 2, "n_planned": 3, "n_diverged": 1, "n_failed": 0, "n_missing": 0, "n_damaged": 0}
    >>> runs_text(pd.Series(counts | {"divergence_rate": 1 / 3}, dtype=object))
    '2/3 †1 (33 %)'
    """
    lost = row["n_failed"] + row["n_damaged"]
    text = f"{row['n_done']}/{row['n_planned']}"
    if row["n_diverged"]:
        text += f" †{row['n_diverged']} ({100.0 * row['divergence_rate']:.0f} %)"
    return text + (f" ✗{lost}" if lost else "")


def median_text(row: pd.Series) -> str:
    """The median with diverged runs as the worst ones.

    >>> median_text(pd.Series({"median_with_failures": -math.inf}))
    'diverged'
    """
    return "diverged" if row["median_with_failures"] == -math.inf else fixed(row["median_with_failures"])


def mean_text(row: pd.Series) -> str:
    """Mean and interval of the finished runs; † where others diverged."""
    text = plus_minus(row["test_accuracy"], row["test_accuracy_half_width"])
    return f"{text} †" if row["n_diverged"] and row["n_done"] else text


def rank_text(row: pd.Series) -> str:
    """The rank, or a dash for an optimizer without a finished run."""
    return DASH if pd.isna(row["rank"]) else str(row["rank"])


def difference_text(row: pd.Series) -> str:
    """Difference to the baseline with its interval; an arrow where it is significant, † where it leaves out
    seeds at which one of the two diverged.
    """
    if row["verdict"] in ("baseline", "no baseline") or pd.isna(row["difference"]):
        return "baseline" if row["verdict"] == "baseline" else DASH
    lost = row["n_only_this_diverged"] + row["n_only_baseline_diverged"]
    mark = MARKS.get(row["verdict"], "") + ("†" if lost else "")
    span = interval(row["difference_low"], row["difference_high"])
    return f"{signed(row['difference'])}{'' if span == DASH else f' {span}'}{f' {mark}' if mark else ''}"


def measures_in(board: pd.DataFrame) -> list[str]:
    """The headline measures that this leaderboard has."""
    return [name for name in HEADLINE_MEASURES if name in board.columns]


def to_rich(board: pd.DataFrame) -> list[Table]:
    """One table per condition, at most 110 columns wide: no number is ever cut.

    The best of a column is bold (accuracy: highest median; sharpness: smallest mean); a green ▲ or red ▼
    marks a difference to the baseline that stands after Holm's correction. As many sharpness columns are
    shown as fit.
    """
    shown = [name for name in TERMINAL_MEASURES if name in board.columns]
    ruler = Console(width=1000, file=io.StringIO())
    while True:
        tables = [
            _terminal_table(str(condition), rows, board, shown)
            for condition, rows in board.groupby("condition", sort=False)
        ]
        if tables and sweep_warning(board):
            # Once, under the last one: it concerns them all.
            tables[-1].caption = Text(f"{_legend(board)} {sweep_warning(board)}.")
        widest = max((ruler.measure(table).maximum for table in tables), default=0)
        if widest <= TERMINAL_WIDTH or not shown:
            return tables
        shown.pop()


def _terminal_table(condition: str, rows: pd.DataFrame, board: pd.DataFrame, shown: list[str]) -> Table:
    table = Table(
        title=Text(condition, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=Text(_legend(board)),
        caption_justify="left",
    )
    baseline = baseline_of(board)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("optimizer", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("runs", no_wrap=True)
    table.add_column("median % ↑", justify="right", no_wrap=True)
    table.add_column("mean test %", justify="right", no_wrap=True)
    table.add_column(
        Text(f"Δ {baseline}" if baseline else "Δ"), no_wrap=True, overflow="ellipsis", max_width=26
    )
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("cost", justify="right", no_wrap=True)
    for name in shown:
        table.add_column(Text(describe_measure(name).title + " ↓"), justify="right", no_wrap=True)
    flattest = {name: rows[name].min() for name in shown}
    for _, row in rows.iterrows():
        first = "bold" if is_first(row) else ""
        table.add_row(
            Text(rank_text(row)),
            Text(row["optimizer"], style=first),
            Text(runs_text(row)),
            Text(median_text(row), style=first),
            Text(mean_text(row)),
            Text(difference_text(row), style=COLOURS.get(row["verdict"], "")),
            Text(p_value(row["p_holm"])),
            Text(DASH if pd.isna(row["cost_ratio"]) else f"{fixed(row['cost_ratio'], 1)}×"),
            *(
                Text(
                    measured(row[name], row[f"{name}_error"], "±"),
                    style="bold" if row[name] == flattest[name] else "",
                )
                for name in shown
            ),
        )
    return table


def is_first(row: pd.Series) -> bool:
    """Whether the row has the highest median accuracy of its condition."""
    return not pd.isna(row["rank"]) and bool(row["rank"] == 1)


def to_markdown(board: pd.DataFrame, title: str) -> str:
    """The leaderboard as GitHub tables, one per condition, with a legend.

    >>> print(to_markdown(pd.DataFrame({"condition": []}), "Empty"))
    # Empty
    <BLANKLINE>
    No runs are planned.
    <BLANKLINE>
    """
    if not len(board):
        return f"# {_markdown(title)}\n\nNo runs are planned.\n"
    cells = board_cells(board)
    lines = [f"# {_markdown(title)}", ""]
    for condition, rows in board.groupby("condition", sort=False):
        lines += [f"## {_markdown(str(condition))}", ""]
        lines.append("| " + " | ".join(_markdown(cell.heading) for cell in cells) + " |")
        # The first two columns are names; the rest are numbers.
        lines.append("|" + "|".join([" --- ", " :-- "] + [" --: "] * (len(cells) - 2)) + "|")
        for _, row in rows.iterrows():
            texts = [_markdown(cell.text(row)) for cell in cells]
            if is_first(row):
                texts[1] = f"**{texts[1]}**"
            lines.append("| " + " | ".join(texts) + " |")
        lines.append("")
    warning = sweep_warning(board)
    legend = [_markdown(_legend(board)), *(["", _markdown(f"Not tuned: {warning}.")] if warning else [])]
    return "\n".join([*lines, *legend, ""])


def to_csv(board: pd.DataFrame) -> str:
    """All columns with all digits; an empty field is a number that can't be computed."""
    return board.to_csv(index=False, lineterminator="\n")


def board_cells(board: pd.DataFrame) -> list[Cell]:
    """The columns of the long tables (Markdown and the page agree on them)."""
    baseline = baseline_of(board)
    return [
        Cell("#", "rank", rank_text),
        Cell("Optimizer", "optimizer", lambda row: str(row["optimizer"])),
        Cell("Runs", "n_done", runs_text),
        Cell("Median accuracy (%)", "median_with_failures", median_text),
        Cell("Mean of finished (%)", "test_accuracy", mean_text),
        Cell(f"Δ {baseline} (points)" if baseline else "Δ", "difference", difference_text),
        Cell("p (Holm)", "p_holm", lambda row: p_value(row["p_holm"])),
        Cell("Gradients", "gradient_evaluations", _cost_text),
        *(_measure_cell(name) for name in measures_in(board)),
        Cell("Gap (points)", "accuracy_gap", lambda row: fixed(row["accuracy_gap"])),
        Cell("Effect g", "effect_size", lambda row: signed(row["effect_size"], 1)),
    ]


def _measure_cell(name: str) -> Cell:
    return Cell(describe_measure(name).title, name, lambda row: measured(row[name], row[f"{name}_error"]))


def _cost_text(row: pd.Series) -> str:
    if pd.isna(row["gradient_evaluations"]):
        return DASH
    ratio = "" if pd.isna(row["cost_ratio"]) else f" ({fixed(row['cost_ratio'], 1)}×)"
    return f"{row['gradient_evaluations']:,.0f}{ratio}"


def baseline_of(board: pd.DataFrame) -> str:
    """The baseline's label, or nothing."""
    named = board.loc[board["verdict"] == "baseline", "optimizer"]
    return str(named.iloc[0]) if len(named) else ""


def _legend(board: pd.DataFrame) -> str:
    baseline = baseline_of(board)
    parts = [
        "ranked by the median test accuracy",
        "± 95 % t-interval over seeds (sharpness: ± 1 standard error)",
    ]
    if baseline:
        parts.append(f"Δ paired by seed against {baseline}; p after Holm, ▲ ▼ p ≤ 0.05")
    if (board["n_diverged"] > 0).any():
        parts.append(
            "† diverged, the worst in the median; means, differences and sharpness are of finished runs"
        )
    if ((board["n_failed"] + board["n_damaged"]) > 0).any():
        parts.append("✗ failed or damaged")
    return "; ".join(parts) + "."


def _markdown(text: str) -> str:
    """Text that stays text in a Markdown table cell."""
    escaped = html.escape(text, quote=False)
    for mark in "\\|*_`[]~":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
