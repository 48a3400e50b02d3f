"""Read an output directory, compute everything, write the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from ..files import atomic_path, write_text
from .columns import FRAMES_SCHEMA_VERSION
from .figures import FIGURE_NAMES, draw_figures
from .frames import Frames, collect
from .leaderboard import leaderboard
from .link import generalization_link
from .page import render_page
from .summary import summarise
from .tables import to_csv, to_markdown, to_rich


@dataclass(frozen=True)
class Report:
    """What :func:`render` made.

    Attributes:
        leaderboard: one row per condition and optimizer.
        link: one row per gap and measure.
        frames: the runs as tidy frames.
        page: the HTML page.
        tables: the leaderboard for the terminal, one table per condition.
        summary: the sentences on top of the page.
        problems: what a reader must know: unfinished, unreadable and imprecise runs.
    """

    leaderboard: pd.DataFrame
    link: pd.DataFrame
    frames: Frames
    page: Path
    tables: list[Table]
    summary: list[str]
    problems: list[str]


def render(out: Path, destination: Path | None = None) -> Report:
    """Write the report of the output directory ``out`` to ``destination`` (default ``out/report``).

    Writes ``index.html`` (self-contained), ``leaderboard.md``, ``leaderboard.csv``, ``figures/*.png``
    and ``frames/*.parquet``, each atomically; the same runs give the same bytes. Without a finished run
    the page says so.

    Raises:
        InvalidInput: ``out`` is not an output directory of ``sharpbench run``.
    """
    frames = collect(out)
    board = leaderboard(frames)
    link = generalization_link(frames)
    sentences = summarise(frames, board, link)
    drawings = draw_figures(frames, board, link)
    target = Path(out) / "report" if destination is None else Path(destination)
    for drawing in drawings:
        with atomic_path(target / "figures" / f"{drawing.name}.png") as temporary:
            temporary.write_bytes(drawing.image.png)
    for name in set(FIGURE_NAMES) - {drawing.name for drawing in drawings}:
        # Left by an earlier report of more runs or measures: no longer true.
        (target / "figures" / f"{name}.png").unlink(missing_ok=True)
    tidy = {
        "runs": frames.runs,
        "history": frames.history,
        "measures": frames.measures,
        "densities": frames.densities,
        "leaderboard": board,
        "link": link,
    }
    for name, frame in tidy.items():
        _write_parquet(target / "frames" / f"{name}.parquet", frame)
    write_text(target / "leaderboard.csv", to_csv(board))
    write_text(target / "leaderboard.md", to_markdown(board, frames.plan.title))
    page = target / "index.html"
    # Last: whoever sees the page finds everything else in place.
    write_text(page, render_page(frames, board, link, drawings, sentences))
    return Report(board, link, frames, page, to_rich(board), sentences, list(frames.problems))


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    version = {b"sharpbench_frames_schema": str(FRAMES_SCHEMA_VERSION).encode()}
    table = table.replace_schema_metadata((table.schema.metadata or {}) | version)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
