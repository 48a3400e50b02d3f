"""All figures of a report, in order, each with its caption; a figure without data is left out."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from .canvas import Image, render_figure
from .figure_accuracy import accuracy_figure
from .figure_density import density_figure
from .figure_link import link_figure, linked_measures
from .frames import Frames
from .link import generalization_link

FIGURE_NAMES = ("accuracy", "sharpness-gap", "spectral-density")
# An SVG holds every mark; beyond so many runs a picture is smaller, and quicker to open.
MOST_RUNS_AS_VECTOR = 200


@dataclass(frozen=True)
class Drawing:
    """A figure ready for files and page."""

    name: str
    title: str
    caption: str
    image: Image


def draw_figures(frames: Frames, board: pd.DataFrame, link: pd.DataFrame | None = None) -> list[Drawing]:
    """Accuracy, sharpness against gap, spectral densities. The same frames give the same bytes.

    ``link`` is the table of :func:`~sharpbench.report.link.generalization_link`; it is computed if absent.
    """
    link = generalization_link(frames) if link is None else link
    vector = len(frames.done) <= MOST_RUNS_AS_VECTOR
    drawings = []
    if len(frames.done):
        drawings.append(
            Drawing(
                FIGURE_NAMES[0],
                "Test accuracy",
                "Each dot is a finished run; the diamond is their mean and the line its 95 % t-interval over "
                "seeds (an arrow: the interval goes on). Each cross left of the line is a run that diverged. "
                "The dashed line is the mean of the baseline's finished runs. Best mean rank on top.",
                render_figure(lambda: accuracy_figure(frames, board), vector),
            )
        )
    if linked_measures(link):
        drawings.append(
            Drawing(
                FIGURE_NAMES[1],
                "Sharpness against generalization gap",
                "Each dot is a finished run; a line through it is the 95 % interval of a value that "
                "did not reach its precision. τ is Kendall's rank correlation, within: over pairs of runs in "
                "the same condition, all: over all pairs. Its 95 % intervals allow for runs that share an "
                "optimizer or a condition, and are corrected for the number of measures.",
                render_figure(lambda: link_figure(frames, link), vector),
            )
        )
    if len(frames.densities):
        drawings.append(
            Drawing(
                FIGURE_NAMES[2],
                "Spectral density of the Hessian",
                "One ridge per optimizer, its height the logarithm of the density. Thin: one seed; thick: "
                "the mean over seeds. The floor is one eigenvalue spread over the whole range.",
                render_figure(lambda: density_figure(frames, board), vector),
            )
        )
    return drawings
