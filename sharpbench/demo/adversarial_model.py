"""`adversarial-model`: where SAM and InfoSAM look when the gradient is mostly noise.

Appendix D of "Preconditioned Sharpness-Aware Minimization" (arXiv 2501.06603): three weights at x = 0,
true gradient [.2, -.02, .01], noise covariance a diag(.2, 2, 1) with SNR .1. Columns of the table:

| column | holds |
|---|---|
| `covariance` | `published`: noise least along x, where the gradient is; `swapped`: a diag(2, .2, 1) |
| `snr` | norm of the gradient squared over the mean squared norm of the noise |
| `rule` | see :func:`sharpbench.demo.noise_design.directions` |
| `directions` | sample size |
| `axis_share`, `axis_low`, `axis_high` | share of directions within 15 degrees of the *line* through the true gradient, sign ignored, with its 95 % Wilson interval |
| `axis_exact` | the same probability by quadrature (NaN where none is known) |
| `signed_share`, `signed_low`, `signed_high`, `signed_exact` | within 15 degrees of the true gradient itself |
| `mean_cosine`, `mean_cosine_std_error` | of the angle to the true gradient: the first-order rise of the loss at x + e as a share of the largest possible |
"""  # noqa: E501

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from ..files import write_text
from .adversarial_figure import draw
from .angular import cap_probability, largest_entry_probability
from .canvas import save_png
from .case import Demo, DemoResult, output_folder, paragraph
from .noise_design import NoiseDesign, directions, standardised_runs

NAME = "adversarial-model"
COVARIANCES = {"published": (0.2, 2.0, 1.0), "swapped": (2.0, 0.2, 1.0)}
SNRS = (0.01, 0.03, 0.1, 0.3, 1.0)
PUBLISHED_SNR = 0.1
HALF_ANGLE = math.radians(15.0)
SAMPLE = 20_000
#: 120 steps: the running mean then forgets its start to (1 - .05)^120 = 0.2 %.
MEMORY_STEPS = 120
ALPHA = 0.05
SEED = 250106603


def run(folder: Path) -> DemoResult:
    """Sample, tabulate, draw; writes ``adversarial-model.csv``, ``.png`` and ``.txt`` into ``folder``."""
    folder = output_folder(folder)
    table = measure(SAMPLE, SEED)
    runs = standardised_runs(SAMPLE, MEMORY_STEPS, ALPHA, SEED)
    shown = directions(NoiseDesign("published", COVARIANCES["published"], PUBLISHED_SNR), runs)
    text = describe(table)
    write_text(folder / f"{NAME}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_text(folder / f"{NAME}.txt", text)
    figure = save_png(draw(shown, table, HALF_ANGLE), folder / f"{NAME}.png")
    return DemoResult(table, [figure], text)


def measure(sample: int, seed: int) -> pd.DataFrame:
    """The table: covariance x SNR x rule, from one set of random draws."""
    runs = standardised_runs(sample, MEMORY_STEPS, ALPHA, seed)
    rows = []
    for covariance, shape in COVARIANCES.items():
        for snr in SNRS:
            design = NoiseDesign(covariance, shape, snr)
            target = design.mean / np.linalg.norm(design.mean)
            for rule, vectors in directions(design, runs).items():
                cosine = vectors @ target
                forward, backward = exact_shares(design, rule)
                rows.append(
                    {
                        "covariance": covariance,
                        "snr": snr,
                        "rule": rule,
                        "directions": sample,
                        **_share("axis", np.abs(cosine) >= math.cos(HALF_ANGLE), forward + backward),
                        **_share("signed", cosine >= math.cos(HALF_ANGLE), forward),
                        "mean_cosine": float(cosine.mean()),
                        "mean_cosine_std_error": float(cosine.std(ddof=1) / math.sqrt(sample)),
                    }
                )
    return pd.DataFrame(rows)


def exact_shares(design: NoiseDesign, rule: str) -> tuple[float, float]:
    """P(within 15 degrees of the true gradient), and of its opposite; NaN where no closed form is used.

    >>> design = NoiseDesign("published", COVARIANCES["published"], PUBLISHED_SNR)
    >>> [round(p, 4) for p in exact_shares(design, "infosam")]
    [0.3334, 0.0083]
    """
    mean, variances = design.mean, design.variances
    if rule == "sam":
        pass
    elif rule == "infosam":
        # C g with C = S^-1 is again Gaussian, with mean S^-1 m and covariance S^-1.
        mean, variances = mean / variances, 1 / variances
    elif rule == "l1":
        unit = design.mean / np.linalg.norm(design.mean)
        near = [(i, int(np.sign(unit[i]))) for i in range(3) if abs(unit[i]) >= math.cos(HALF_ANGLE)]
        forward = sum(largest_entry_probability(mean, variances, i, s) for i, s in near)
        return forward, sum(largest_entry_probability(mean, variances, i, -s) for i, s in near)
    else:
        return math.nan, math.nan
    return (
        cap_probability(mean, variances, design.mean, HALF_ANGLE),
        cap_probability(mean, variances, -design.mean, HALF_ANGLE),
    )


def _share(kind: str, hits: NDArray[np.bool_], exact: float) -> dict[str, float]:
    count, n = int(hits.sum()), len(hits)
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return {
        f"{kind}_share": count / n,
        f"{kind}_low": float(interval.low),
        f"{kind}_high": float(interval.high),
        f"{kind}_exact": exact,
    }


def describe(table: pd.DataFrame) -> str:
    """The findings in words, with every number taken from the table."""

    def at(covariance: str, rule: str, snr: float = PUBLISHED_SNR) -> pd.Series:
        chosen = (table.covariance == covariance) & (table.rule == rule) & (table.snr == snr)
        return table[chosen].iloc[0]

    def share(row: pd.Series, kind: str = "axis") -> str:
        return (
            f"{100 * row[f'{kind}_share']:.1f} % [{100 * row[f'{kind}_low']:.1f}, "
            f"{100 * row[f'{kind}_high']:.1f}]"
        )

    sam, info = at("published", "sam"), at("published", "infosam")
    estimated = at("published", "infosam_estimated")
    swapped_sam, swapped_info = at("swapped", "sam"), at("swapped", "infosam")
    high = max(SNRS)
    holds = info.axis_low > sam.axis_high
    turned = swapped_info.axis_high < swapped_sam.axis_low
    labels = {
        "sam": "SAM",
        "infosam": "InfoSAM, true variances",
        "infosam_estimated": "InfoSAM, its own estimate (eq. 7)",
        "infosam_averaged": "InfoSAM, averaged estimate (not in the paper)",
        "l1": "L1-SAM",
    }
    rows = [f"  {'':<46} {'line (sign ignored)':<22} {'direction (signed)':<22} mean cosine"]
    for rule, label in labels.items():
        row = at("published", rule)
        rows.append(f"  {label:<46} {share(row):<22} {share(row, 'signed'):<22} {row.mean_cosine:.2f}")
    listing = "\n".join(rows)
    paragraphs = [
        f"""Three weights at x = 0; true gradient [.2, -.02, .01]; noise covariance a diag(.2, 2, 1), SNR
        {PUBLISHED_SNR:g}; {int(sam.directions)} stochastic gradients. Share of perturbations e within 15
        degrees of the true gradient, with 95 % Wilson intervals:""",
        listing,
        f"""{"Holds" if holds else "Does not hold"}: InfoSAM's directions gather around the x axis where SAM's
        scatter over y and z. "Concentrate" is relative: at SNR {PUBLISHED_SNR:g}
        {100 * (1 - info.axis_share):.0f} % of InfoSAM's directions still lie farther than 15 degrees from the
        line; at SNR {high:g}, {100 * (1 - at("published", "infosam", high).axis_share):.0f} % do.""",
        f"""Finding: the variances decide, not the gradient. C = diag(1/sigma^2) favours the entries with the
        least noise, and in the published design that is where the gradient is. With the covariance swapped,
        a diag(2, .2, 1), {"the order reverses" if turned else "the order does not reverse"}: on the line, SAM
        {share(swapped_sam)}, InfoSAM {share(swapped_info)}.""",
        f"""Finding: the algorithm estimates sigma^2 from a single deviation (m - g)^2. On i.i.d. gradients
        (alpha {ALPHA:g}, relative floor .1) that costs a good part of the gain, {share(estimated)} against
        {share(info)} with the true variances, but gains the sign: entries that agree with the
        running mean weigh most, and of its directions near the line
        {100 * estimated.signed_share / estimated.axis_share:.1f} % point the right way, against
        {100 * info.signed_share / info.axis_share:.1f} % with the true variances. With the covariance
        swapped it stays at {share(at("swapped", "infosam_estimated"))}.""",
        """Not shown: ASAM equals SAM at x = 0 (|x| + eta is a multiple of the identity); the sign rule of
        L-infinity SAM can only point along the eight diagonals, 54 degrees or more from every axis.""",
    ]
    title = "Adversarial model (arXiv 2501.06603, Appendix D)"
    return "\n\n".join([title, *(p if p is listing else paragraph(p) for p in paragraphs)]) + "\n"


DEMO = Demo(
    NAME,
    "where SAM and InfoSAM look when the gradient is mostly noise (arXiv 2501.06603, App. D)",
    run,
)
