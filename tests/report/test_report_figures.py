from __future__ import annotations

import io
import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import PathCollection
from PIL import Image

from sharpbench.report import collect, draw_figures, leaderboard
from sharpbench.report.canvas import plain, style
from sharpbench.report.figure_accuracy import accuracy_figure
from sharpbench.report.figure_link import link_figure
from sharpbench.report.palette import BASELINE_COLOUR, HUES, looks


def test_three_figures_that_show_something(digits: Path) -> None:
    frames = collect(digits)
    drawings = draw_figures(frames, leaderboard(frames))
    assert [d.name for d in drawings] == ["accuracy", "sharpness-gap", "spectral-density"]
    for drawing in drawings:
        picture = Image.open(io.BytesIO(drawing.image.png))
        assert picture.width == 1110  # 7.4 inches at 150 dpi
        assert picture.mode == "RGB"
        assert np.asarray(picture).std() > 10
        assert drawing.image.embedded.startswith(b"<?xml")


def test_every_seed_is_a_dot(digits: Path) -> None:
    frames = collect(digits)
    with style():
        figure = accuracy_figure(frames, leaderboard(frames))
    # Dots are the collections of size 9; diamonds and caps have other sizes.
    dots = [c for axis in figure.axes for c in axis.collections if isinstance(c, PathCollection)]
    drawn = [x for c in dots if list(c.get_sizes()) == [9] for x in c.get_offsets()[:, 0]]
    assert sorted(drawn) == pytest.approx(sorted(100 * frames.done["test_accuracy"]))


def test_link_panels_hold_every_run_and_the_tau(digits: Path) -> None:
    frames = collect(digits)
    with style():
        figure = link_figure(frames)
    assert len(figure.axes) == 5
    for axis in figure.axes:
        assert axis.get_xscale() == "log"
        assert sum(len(dots.get_offsets()) for dots in axis.collections) == 34
        assert axis.get_title(loc="left").startswith("within: τ = +0.")


def test_the_users_matplotlib_is_left_alone(digits: Path) -> None:
    frames = collect(digits)
    before = dict(mpl.rcParams)
    draw_figures(frames, leaderboard(frames))
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


@pytest.mark.parametrize("count", [1, 30])
def test_any_number_of_optimizers(make_out, count: int) -> None:
    names = tuple(f"optimizer-{i}" for i in range(count))
    out, _ = make_out(optimizers=names, noises=(0.0, 0.5), seeds=2, faults=False, points=41)
    frames = collect(out)
    assert len(draw_figures(frames, leaderboard(frames))) == 3


def test_ten_conditions_one_seed(make_out) -> None:
    noises = tuple(i / 20 for i in range(10))
    out, _ = make_out(optimizers=("sgd", "sam"), noises=noises, seeds=1, faults=False, points=41)
    frames = collect(out)
    assert len(draw_figures(frames, leaderboard(frames))) == 3


def test_labels_that_matplotlib_would_misread(make_out) -> None:
    names = ("sgd", "$\\frac{", "_hidden", "名前", "x" * 200)
    out, _ = make_out(optimizers=names, noises=(0.0,), seeds=2, faults=False, points=41)
    frames = collect(out)
    assert len(draw_figures(frames, leaderboard(frames))) == 3
    assert plain("a$b") == r"a\$b"


def test_two_seeds_do_not_squeeze_the_dots(make_out) -> None:
    """t = 12.7: the interval is cut at the frame, the dots keep most of it."""
    out, _ = make_out(optimizers=("sgd", "sam"), noises=(0.0,), seeds=2, faults=False)
    frames = collect(out)
    with style():
        axis = accuracy_figure(frames, leaderboard(frames)).axes[0]
    low, high = axis.get_xlim()
    percent = 100 * frames.done["test_accuracy"]
    assert (percent.max() - percent.min()) / (high - low) > 0.3


def test_thirty_looks_differ_and_do_not_depend_on_who_finished() -> None:
    names = [f"m{i}" for i in range(30)]
    found = looks(names, None)
    assert len(set(found.values())) == 30
    assert looks(["sgd", *names], "sgd")["m3"] == found["m3"]


def test_hues_stay_apart_for_colour_blind_eyes() -> None:
    """Machado et al. 2009, severity 1: CIELAB distances of all colours after the loss."""
    deficiencies = {
        "protan": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deutan": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    }
    srgb = np.array([mpl.colors.to_rgb(hue) for hue in (*HUES, BASELINE_COLOUR)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    for matrix in deficiencies.values():
        xyz = np.clip(linear @ np.array(matrix).T, 0, 1) @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
        nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))
        assert nearest > 18
