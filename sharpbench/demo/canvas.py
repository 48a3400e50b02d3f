"""Figures without global state: a fixed style, matplotlib's object interface, and atomic PNG files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import atomic_path

#: Okabe and Ito's colours, which stay apart for colour-blind readers and in grey.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"

STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


class Look(NamedTuple):
    """How one rule is drawn wherever it appears."""

    label: str
    color: str
    marker: str
    line: Literal["-", "--", ":"]


@contextmanager
def paper_style() -> Iterator[None]:
    """The style above over matplotlib's own defaults, whatever the user's settings; undone on leaving.

    >>> before = mpl.rcParams["font.size"]
    >>> with paper_style():
    ...     mpl.rcParams["font.size"]
    9.0
    >>> mpl.rcParams["font.size"] == before
    True
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def save_png(figure: Figure, path: Path, dpi: int = 200) -> Path:
    """Render ``figure`` to ``path`` with the Agg canvas; no time stamp or version inside, so bit-stable."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata={"Software": None})
    return path


def letter(axes: Axes, mark: str, title: str) -> None:
    """A panel's title with its letter in bold, as papers refer to it."""
    axes.set_title(rf"$\bf{{{mark}}}$  {title}")
