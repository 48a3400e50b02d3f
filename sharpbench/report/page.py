"""The report as one self-contained HTML page: no network, mailable, readable without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from .columns import METRICS, describe_measure
from .display import DASH, count, interval, p_value, signed
from .figures import Drawing
from .frames import Frames
from .leaderboard import LEADERBOARD_COLUMNS
from .link import GAPS, LINK_COLUMNS
from .strip import scale_of, strip
from .sweeps import sweep_warning
from .tables import baseline_of, board_cells, is_first

# More different values than this are counted, not listed.
FEW_VALUES = 3
NOT_A_SETTING = ("process", "started")
RUNS_HELP = (
    "finished runs that take part; ~ of these, how many did not reach the precision (their error is part of "
    "the intervals); − how many more are left out, because they have the measure only as a bound"
)
SEEDS_HELP = (
    "each dot a finished run, the bar their mean, the line its 95 % t-interval; each cross at the left a run "
    "that diverged"
)
NAMES_NOT_NUMBERS = ("rank", "optimizer", "n_done")


@dataclass(frozen=True)
class HtmlCell:
    """One cell: what is shown, what it is sorted by (empty: last), its look, and what hovering says."""

    content: str
    sort: str = ""
    look: str = ""
    help: str = ""


@dataclass(frozen=True)
class HtmlTable:
    """A table of the page. ``heads``: (text, explanation, look)."""

    title: str
    heads: Sequence[tuple[str, str, str]]
    rows: Sequence[Sequence[HtmlCell]]


def render_page(
    frames: Frames,
    board: pd.DataFrame,
    link: pd.DataFrame,
    drawings: Sequence[Drawing],
    sentences: Sequence[str],
) -> str:
    """The page as text. Whatever comes from users is escaped, and no script but the page's own may run."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sharpbench.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["subscript"] = subscript
    script = environment.get_template("page.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        plan=frames.plan,
        sentences=sentences,
        facts=_facts(frames),
        boards=[_board_table(c, rows, frames, board) for c, rows in board.groupby("condition", sort=False)],
        baseline=baseline_of(board),
        sweeps=sweep_warning(board),
        any_diverged=bool(len(board) and (board["n_diverged"] > 0).any()),
        figures=[(d.title, d.caption, _embedded(d)) for d in drawings],
        n_measures=int(link.groupby("gap").size().max()) if len(link) else 0,
        n_uncertain=int(link["unconverged"].sum() + link["left_out"].sum()) if len(link) else 0,
        links=[_link_table(gap, link[link["gap"] == gap]) for gap in GAPS if (link["gap"] == gap).any()],
        lost=frames.runs[frames.runs["status"] != "done"].to_dict("records"),
        remarks=[p for p in frames.problems if p.partition(":")[0] not in set(frames.runs["status"])],
        measures=[
            (describe_measure(name).title, name, describe_measure(name).meaning)
            for name in frames.measure_names
        ],
        metrics=METRICS,
        board_columns=LEADERBOARD_COLUMNS,
        link_columns=LINK_COLUMNS,
        provenance=_provenance(frames),
        script=Markup(script),
        script_hash=digest,
    )


def subscript(text: str) -> Markup:
    """Text with the subscripts of eigenvalues and norms set as such.

    >>> subscript("λ_1 <"), subscript("my_measure")
    (Markup('λ<sub>1</sub> &lt;'), Markup('my_measure'))
    """
    return Markup(re.sub(r"(λ|‖)_(F|min|\d+)", r"\1<sub>\2</sub>", str(escape(text))))


def _facts(frames: Frames) -> list[tuple[str, str]]:
    plan = frames.plan
    done = len(frames.done)
    return [
        (f"{done}/{plan.planned}", "runs done"),
        (str(len(plan.optimizers)), "optimizer" if len(plan.optimizers) == 1 else "optimizers"),
        (str(len(plan.conditions)), "condition" if len(plan.conditions) == 1 else "conditions"),
        (str(len(plan.seeds)), "seed" if len(plan.seeds) == 1 else "seeds"),
    ]


def _provenance(frames: Frames) -> list[tuple[str, str]]:
    rows = []
    for key, values in frames.provenance.items():
        if key in NOT_A_SETTING:
            continue
        shown = ", ".join(values) if len(values) <= FEW_VALUES else count(len(values), "different value")
        rows.append((key, shown))
    return rows


def _embedded(drawing: Drawing) -> Markup:
    """The figure as part of the page: an SVG element, whose ink follows light and dark, or an image."""
    text = f"{drawing.title}: {drawing.caption}"
    if drawing.image.media_type == "image/svg+xml":
        svg = drawing.image.embedded.decode()
        # matplotlib repeats labels in comments and adds metadata; neither is wanted here.
        svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        size = re.compile(r' (?:width|height)="[^"]*pt"')
        head, body = svg.split(">", 1)
        return Markup(f'{size.sub("", head)} role="img" aria-label="{escape(text)}">{body}')
    source = f"data:{drawing.image.media_type};base64,{base64.b64encode(drawing.image.embedded).decode()}"
    return Markup(f'<img src="{source}" alt="{escape(text)}">')


def _sort_key(value: object) -> str:
    """A number for sorting, or nothing; text sorts by itself."""
    if isinstance(value, str):
        return value
    number = math.nan if value is None or value is pd.NA else float(value)  # type: ignore[arg-type]
    return f"{number:.12g}" if math.isfinite(number) else ""


def _board_table(condition: object, rows: pd.DataFrame, frames: Frames, board: pd.DataFrame) -> HtmlTable:
    """The leaderboard of one condition, with a small picture of the runs beside the accuracy."""
    cells = board_cells(board)
    done = frames.done[frames.done["condition"] == condition]
    percent = 100.0 * done["test_accuracy"]
    scale = scale_of(percent) if len(percent) else None
    base = percent[done["optimizer"] == frames.plan.baseline]
    reference = float(base.mean()) if len(base) else math.nan
    heads = [
        (cell.heading, LEADERBOARD_COLUMNS.get(cell.column) or _measure_help(cell.column), "")
        for cell in cells
    ]
    place = [cell.column for cell in cells].index("test_accuracy") + 1
    heads.insert(
        place,
        (
            "Seeds",
            SEEDS_HELP,
            "plain",
        ),
    )
    table = []
    for _, row in rows.iterrows():
        line = [
            HtmlCell(
                cell.text(row),
                _sort_key(row[cell.column]),
                "name"
                if cell.column == "optimizer"
                else ""
                if cell.column in NAMES_NOT_NUMBERS
                else "number",
            )
            for cell in cells
        ]
        own = percent[done["optimizer"] == row["optimizer"]]
        line.insert(
            place,
            HtmlCell(
                strip(own, scale, reference, int(row["n_diverged"])) if scale else "",
                _sort_key(row["test_accuracy"]),
                "picture",
            ),
        )
        difference = [cell.column for cell in cells].index("difference") + 1
        line[difference] = HtmlCell(
            line[difference].content, line[difference].sort, f"number {row['verdict']}"
        )
        if is_first(row):
            line[1] = HtmlCell(line[1].content, line[1].sort, "name first")
        table.append(line)
    return HtmlTable(str(condition), heads, table)


def _measure_help(name: str) -> str:
    return f"{describe_measure(name).meaning}; mean over finished seeds ± standard error"


def _link_table(gap: str, rows: pd.DataFrame) -> HtmlTable:
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
        _sort_key(row[name]),
        "number linked" if linked else "number",
        note,
    )
