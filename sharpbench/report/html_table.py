"""The cells and tables of the page, before they become HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


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


def sort_key(value: object) -> str:
    """A number for sorting, or nothing; text sorts by itself."""
    if isinstance(value, str):
        return value
    number = math.nan if value is None or value is pd.NA else float(value)  # type: ignore[arg-type]
    return f"{number:.12g}" if math.isfinite(number) else ""
