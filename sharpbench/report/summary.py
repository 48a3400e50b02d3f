"""A few plain sentences that say only what the statistics support."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from .columns import NOT_SHARPNESS, describe_measure
from .display import count, fixed, listing, p_value, signed
from .frames import Frames
from .leaderboard import ALPHA
from .plan import Plan
from .sweeps import sweep_warning
from .tables import median_text

# So many conditions are named one by one; more are counted.
FEW = 3


def summarise(frames: Frames, board: pd.DataFrame, link: pd.DataFrame) -> list[str]:
    """Sentences for the top of the report: what was finished, what differs, what can't be told, the link."""
    plan = frames.plan
    sentences = [_finished(frames)]
    if not len(frames.done):
        return [*sentences, "There is nothing to compare yet."]
    sentences += _diverged(board)
    sentences += _findings(board, plan)
    sentences += _limits(board, plan)
    sentences += _costs(board, plan)
    sentences += [f"{warning}." for warning in [sweep_warning(board)] if warning]
    sentences += _links(link, plan)
    return sentences


def _finished(frames: Frames) -> str:
    counts = frames.runs["status"].value_counts()
    text = f"{counts.get('done', 0)} of {count(len(frames.runs), 'planned run')} finished"
    others = [
        f"{counts[name]} {name}" for name in ("diverged", "failed", "missing", "damaged") if name in counts
    ]
    return text + (f" ({', '.join(others)})." if others else ".")


def _diverged(board: pd.DataFrame) -> list[str]:
    """Which optimizers diverged, and how often: their means are those of survivors."""
    counts = board.groupby("optimizer", sort=False)[["n_diverged", "n_done"]].sum()
    lost = counts[counts["n_diverged"] > 0].sort_values("n_diverged", ascending=False, kind="stable")
    if not len(lost):
        return []
    named = [
        f"{name} in {row['n_diverged']} of {count(int(row.sum()), 'run')}" for name, row in lost.iterrows()
    ]
    return [
        f"Diverged: {listing(named)}. These runs count as the worst in medians and ranks; means and "
        "differences are over the runs that finished."
    ]


def _findings(board: pd.DataFrame, plan: Plan) -> list[str]:
    """Condition by condition: which optimizers differ from the baseline. Empty-handed ones together."""
    sentences, quiet = [], []
    for condition, rows in board.groupby("condition", sort=False):
        ranked = rows[rows["rank"].notna()]
        where = "over all runs" if str(condition) == "all runs" else f"at {condition}"
        if not len(ranked):
            sentences.append(f"No run has finished {where}.")
            continue
        top = ranked.iloc[0]
        unit = " %" if math.isfinite(top["median_with_failures"]) else ""
        leader = f"{top['optimizer']} {where} ({median_text(top)}{unit})"
        found = _found(rows, plan)
        if not found:
            quiet.append((where, leader))
            continue
        undecided = int(rows["verdict"].isin(["undecided", "untested"]).sum())
        others = "the other one" if undecided == 1 else f"the other {undecided}"
        rest = f"; {others} can't be told from it" if undecided else ""
        sentences.append(f"{where[0].upper()}{where[1:]}, {'; '.join(found)} after correction{rest}.")
    tops = listing([leader for _, leader in quiet])
    if quiet and plan.baseline is None:
        sentences.append(f"Without a baseline no difference is tested. Highest medians: {tops}.")
    elif quiet:
        places = listing([where for where, _ in quiet])
        if len(quiet) > FEW:
            places = f"in {len(quiet)} of {count(len(plan.conditions), 'condition')}"
        text = f"No optimizer can be told from {plan.baseline} {places} after correction."
        if len(quiet) <= FEW:
            text += f" The highest median there (no finding): {tops}."
        sentences.append(text)
    return sentences


def _found(rows: pd.DataFrame, plan: Plan) -> list[str]:
    found = []
    for verdict, one, several in (("better", "beats", "beat"), ("worse", "falls behind", "fall behind")):
        named = [_difference(row) for _, row in rows[rows["verdict"] == verdict].iterrows()]
        if named:
            found.append(f"{listing(named)} {one if len(named) == 1 else several} {plan.baseline}")
    return found


def _difference(row: pd.Series) -> str:
    p = p_value(row["p_holm"])
    return (
        f"{row['optimizer']} ({signed(row['difference'])} points, p {p if p.startswith('<') else f'= {p}'})"
    )


def _limits(board: pd.DataFrame, plan: Plan) -> list[str]:
    """How large a difference would have been seen."""
    tested = board[board["detectable"].notna()]
    if not len(tested):
        if plan.baseline is None or len(plan.optimizers) < 2:
            return []
        return ["No comparison has two seeds that differ, so no difference can be tested; plan more seeds."]
    comparisons = int((~board["verdict"].isin(["baseline", "no baseline"])).sum())
    middle = float(tested["detectable"].median())
    size = f"below about {fixed(middle, 1)} points" if middle < 100 else "of any size"
    seeds = count(int(tested["n_pairs"].median()), "seed")
    return [
        f"With {seeds} and {count(comparisons, 'comparison')} (Holm-corrected, {ALPHA:g} in all), a typical "
        f"true difference {size} would be missed more than once in five times; “can't be told apart” is not "
        "“equal”."
    ]


def _costs(board: pd.DataFrame, plan: Plan) -> list[str]:
    if plan.baseline is None:
        return []
    ratios = board.groupby("optimizer", sort=False)["cost_ratio"].mean()
    dearer = [str(name) for name in ratios.index[ratios > 1.05]]
    if not dearer:
        return []
    every = len(dearer) == len(plan.optimizers) - 1 and len(dearer) > 1
    who = "All other optimizers" if every else listing(dearer)
    return [
        f"{who} {'uses' if len(dearer) == 1 else 'use'} more gradient evaluations than {plan.baseline} "
        f"(up to {fixed(float(ratios.max()), 1)} times): these are not comparisons at equal compute."
    ]


def _links(link: pd.DataFrame, plan: Plan) -> list[str]:
    """Which measures go with the accuracy gap, and whether they still do along the single axes."""
    rows = link[(link["gap"] == "accuracy_gap") & ~link["measure"].isin(NOT_SHARPNESS)]
    if not len(rows):
        return ["Too few runs have sharpness measures to link them to generalization."]
    return [_link_sentence(rows, plan), *_uncertain(rows)]


def _link_sentence(rows: pd.DataFrame, plan: Plan) -> str:
    known = rows[rows["within_low"].notna()]
    if not len(known):
        return (
            "Too few optimizers and conditions have finished (or too few values are more than bounds) to "
            "give the link between sharpness and the gap an interval."
        )
    inside = "within conditions " if len(plan.conditions) > 1 else ""
    linked = known[(known["within_low"] > 0) | (known["within_high"] < 0)]
    if not len(linked):
        return f"No sharpness measure shows a rank correlation with the gap {inside}(all intervals hold 0)."
    strongest = linked.sort_values("within", key=abs, ascending=False, kind="stable").iloc[0]
    best: dict[Any, Any] = strongest.to_dict()
    show = "show" if len(linked) > 1 else "shows"
    span = f"{signed(best['within_low'])} to {signed(best['within_high'])}"
    text = (
        f"{len(linked)} of {count(len(known), 'sharpness measure')} {show} a rank correlation with the "
        f"accuracy gap {inside}(after correction for the number of measures); the strongest is "
        f"{describe_measure(best['measure']).title} "
        f"(Kendall τ = {signed(best['within'])}, 95 % interval {span})."
    )
    if inside and math.isfinite(best["kendall"]):
        text += f" Over all runs together it is τ = {signed(best['kendall'])}"
        opposite = best["kendall"] * best["within"] < 0
        text += ", the opposite, because the conditions shift both numbers." if opposite else "."
    return text + " A correlation is not a cause."


def _uncertain(rows: pd.DataFrame) -> list[str]:
    """Which measures have runs that took no part in the link."""
    lost = rows[rows["left_out"] > 0]
    if not len(lost):
        return []
    named = [
        f"{describe_measure(row['measure']).title} in {row['left_out']} of {row['left_out'] + row['runs']}"
        for _, row in lost.iterrows()
    ]
    return [f"Left out of the link, because the value is only a bound: {listing(named)} runs."]
