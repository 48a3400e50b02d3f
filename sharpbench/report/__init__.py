"""Runs become tidy frames, statistics, a leaderboard, figures and one HTML page.

``render(out)`` does it all; the parts are for notebooks::

    frames = collect(Path("runs/digits"))
    frames.measures.groupby(["optimizer", "measure"])["value"].mean()
    leaderboard(frames)
"""

from .association import kendall as kendall
from .association import kendall_within as kendall_within
from .association import pearson as pearson
from .association import spearman as spearman
from .evidence import Association as Association
from .figures import draw_figures as draw_figures
from .frames import Frames as Frames
from .frames import collect as collect
from .granulated import granulated_kendall as granulated_kendall
from .leaderboard import leaderboard as leaderboard
from .link import generalization_link as generalization_link
from .render import Report as Report
from .render import render as render
from .statistics import detectable_difference as detectable_difference
from .statistics import holm as holm
from .statistics import mean_interval as mean_interval
from .statistics import paired_difference as paired_difference
from .tables import to_csv as to_csv
from .tables import to_markdown as to_markdown
from .tables import to_rich as to_rich
