"""Figures made the same everywhere: own style, own font, no pyplot, the same bytes for the same data."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import PIL.Image
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .palette import Look

PAGE_WIDTH = 7.4  # inches: the text width of a page
PNG_DPI = 150
INK = "#333333"
LONGEST_LABEL = 26

# Any: the type of rc_context lists every key of one matplotlib version.
_STYLE: Any = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper"),
    # Comes with matplotlib, so the text is the same on every machine.
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 1.8,
    "ytick.minor.size": 1.8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "text.color": INK,
    "svg.hashsalt": "sharpbench",  # otherwise element ids are random
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """The house style, for the time of the block; the user's settings and backend are untouched."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to bother anyone.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@dataclass(frozen=True)
class Image:
    """A drawn figure: ``png`` on white for files; ``embedded`` without background for the page."""

    png: bytes
    embedded: bytes
    media_type: str


def render_figure(draw: Callable[[], Figure], vector: bool = True) -> Image:
    """Draw once. The page gets an SVG, or, if the figure has too many parts for one, a PNG."""
    png, svg = io.BytesIO(), io.BytesIO()
    with style():
        figure = draw()
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None}, transparent=True)
        # Laying out is most of the work, and is done.
        figure.set_layout_engine("none")
        if vector:
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    on_white = _on_white(png.getvalue())
    if vector:
        return Image(on_white, _shorter(svg.getvalue()), "image/svg+xml")
    return Image(on_white, png.getvalue(), "image/png")


def _shorter(svg: bytes) -> bytes:
    """Path coordinates to a hundredth of a point: half the size, the same picture."""
    data = re.compile(rb' d="[^"]*"')
    return data.sub(lambda found: re.sub(rb"(\.\d\d)\d+", rb"\1", found.group()), svg)


def _on_white(png: bytes) -> bytes:
    """The same picture on a white ground."""
    out = io.BytesIO()
    with PIL.Image.open(io.BytesIO(png)) as picture:
        ground = PIL.Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture.convert("RGBA"))
        ground.convert("RGB").save(out, format="png", dpi=(PNG_DPI, PNG_DPI))
    return out.getvalue()


def plain(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text that matplotlib shows as it is: no mathematics, never hidden, shortened in the middle.

    >>> plain("_hidden"), plain("a-very-long-name-with-details", longest=12)
    (' _hidden', 'a-very…tails')
    """
    if len(text) > longest:
        head = longest // 2
        text = text[:head] + "…" + text[-(longest - head - 1) :]
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def condition_titles(conditions: Sequence[str], width: int = 34) -> dict[str, str]:
    """Conditions as panel titles: with three axes or more, what most conditions share is left out.

    >>> titles = condition_titles(["m = a, n = 0, f = 1", "m = a, n = 1, f = 1", "m = b, n = 0, f = 1"])
    >>> list(titles.values())
    ['m = a, n = 0', 'm = a, n = 1', 'm = b, n = 0']
    """
    pieces = {condition: condition.split(", ") for condition in conditions}
    lengths = {len(parts) for parts in pieces.values()}
    if (
        len(lengths) == 1
        and max(lengths) >= 3
        and all(" = " in p for parts in pieces.values() for p in parts)
    ):
        for place in range(2, max(lengths)):
            values = [parts[place] for parts in pieces.values()]
            usual = max(values, key=values.count)
            if values.count(usual) > len(values) / 2:
                for parts in pieces.values():
                    parts[place] = "" if parts[place] == usual else parts[place]
    short = {condition: ", ".join(filter(None, parts)) for condition, parts in pieces.items()}
    if len(set(short.values())) < len(short):
        short = {condition: condition for condition in conditions}
    return {c: "\n".join(plain(line, 60) for line in _lines(text, width)) for c, text in short.items()}


def _lines(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, broken between the axes."""
    lines = [""]
    for piece in text.split(", "):
        longer = f"{lines[-1]}, {piece}" if lines[-1] else piece
        if len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(piece)
    return lines


def grid(count: int, columns: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A page-wide figure of ``count`` panels, ``height`` inches each; spare cells stay empty."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(PAGE_WIDTH, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    flat = [axes[place // columns][place % columns] for place in range(rows * columns)]
    for spare in flat[count:]:
        spare.remove()
    return figure, flat[:count]


def look_handle(label: str, look: Look) -> Line2D:
    """A legend entry for an optimizer."""
    return Line2D(
        [],
        [],
        linestyle="none",
        marker="o",
        markersize=4.6,
        markerfacecolor=look.face,
        markeredgecolor=look.edge,
        markeredgewidth=look.edge_width,
        label=plain(label),
    )


def legend_below(figure: Figure, groups: Sequence[Sequence[Line2D]]) -> None:
    """A legend under all panels, each group on its own rows; the figure grows by its height."""
    for handle in (handle for group in groups for handle in group):
        handle.set_label(_folded(str(handle.get_label())))
    lines = [line for group in groups for handle in group for line in str(handle.get_label()).split("\n")]
    most = max(len(group) for group in groups)
    columns = max(1, min(most, int(PAGE_WIDTH * 72 / (4.1 * max(map(len, lines)) + 34))))
    padded: list[Line2D] = []
    for group in groups:
        padded += [*group, *(_blank() for _ in range(-len(group) % columns))]
    rows = len(padded) // columns
    height_in_lines = sum(
        max(str(handle.get_label()).count("\n") + 1 for handle in padded[row * columns : (row + 1) * columns])
        for row in range(rows)
    )
    # Legends fill columns first; people read rows first.
    ordered = [padded[row * columns + column] for column in range(columns) for row in range(rows)]
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.17 * height_in_lines + 0.05)
    figure.legend(handles=ordered, loc="outside lower center", ncols=columns, columnspacing=1.6)


def _folded(label: str, longest: int = 34) -> str:
    """A label in lines of about that many characters, broken after commas.

    >>> _folded("model = small_cnn, label_noise = 0, train_fraction = 0.1").splitlines()
    ['model = small_cnn, label_noise = 0,', 'train_fraction = 0.1']
    """
    lines: list[str] = []
    for part in label.replace("\n", ", ").split(", "):
        if lines and len(lines[-1]) + 2 + len(part) <= longest:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return ",\n".join(lines)


def _blank() -> Line2D:
    return Line2D([], [], linestyle="none", label=" ")
