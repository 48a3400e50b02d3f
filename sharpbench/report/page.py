"""The report as one self-contained HTML page: no network, mailable, readable without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from .columns import METRICS, describe_measure
from .display import count
from .figures import Drawing
from .frames import Frames
from .html_table import HtmlCell, HtmlTable, sort_key
from .leaderboard import LEADERBOARD_COLUMNS
from .link import GAPS, LINK_COLUMNS
from .link_table import link_table
from .strip import scale_of, strip
from .sweeps import sweep_warning
from .tables import baseline_of, board_cells, is_first

# More different values than this are counted, not listed.
FEW_VALUES = 3
NOT_A_SETTING = ("process", "started")
SEEDS_HELP = (
    "each dot a finished run, the bar their mean, the line its 95 % t-interval; each cross at the left a run "
    "that diverged"
)
NAMES_NOT_NUMBERS = ("rank", "optimizer", "n_done")


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
        links=[link_table(gap, link[link["gap"] == gap]) for gap in GAPS if (link["gap"] == gap).any()],
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
                sort_key(row[cell.column]),
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
                sort_key(row["test_accuracy"]),
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
