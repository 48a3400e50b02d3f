"""`asymmetric-valley`: what noise does to SAM on a one-dimensional valley with two unlike slopes.

After Appendix C of "Preconditioned Sharpness-Aware Minimization" (arXiv 2501.06603), which compares SGD,
ideal SAM (perturbation from the noise-free gradient) and noisy SAM while they (a) cross from the sharper
to the flatter slope and (b) minimise on the flatter slope. The paper's own function is not used: the
valley is :class:`sharpbench.demo.valley.Valley`, stated there. Columns of the table:

| column | holds |
|---|---|
| `scenario` | `crossing` (from x = -1.5, sharper slope) or `minimising` (from x = 2, flatter slope) |
| `snr` | f'(start)^2 / sigma^2; the noise sigma is constant along a walk |
| `rule` | see :func:`sharpbench.demo.valley.walk`; `walks` seeds share their noise between rules |
| `steps`, `steps_low`, `steps_high` | mean number of steps until the minimum at 0 is first reached or passed, at most the horizon (`horizon`), with its 95 % t-interval |
| `steps_exact` | the same expectation by quadrature (NaN for the rules with memory) |
| `saved`, `saved_low`, `saved_high` | steps of SGD minus steps of this rule, walk by walk: mean and 95 % t-interval |
| `unfinished` | share of walks that did not get there |
| `wrong_sign` | share of steps before the crossing that looked downhill (NaN for SGD, which does not look) |
| `wrong_sign_expected` | for noisy SAM: mean of Phi(-abs(f'(x))/sigma) at the same positions |
| `rest_loss`, `rest_position` | mean of f(x) and of x over the last quarter of the steps |
"""  # noqa: E501

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import write_text
from ..report.statistics import mean_interval, paired_difference
from .canvas import save_png
from .case import Demo, DemoResult, output_folder, paragraph
from .valley import RULES, Valley, Walks, walk, wrong_sign_probability
from .valley_exact import MEMORYLESS, expected_steps
from .valley_figure import draw

NAME = "asymmetric-valley"
VALLEY = Valley(sharp=2.0, flat=0.5, width=1.0)
LR = 0.02
RHO = 0.5
#: The SNR of Appendix D; Appendix C states none. The paper measures about .01 in training.
SHOWN_SNR = 0.1
SNRS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
WALKS = 2000
SEED = 250106603


@dataclass(frozen=True)
class Scenario:
    """A start, and the number of steps after which a walk that has not reached the minimum is given up."""

    name: str
    start: float
    horizon: int

    def sigma(self, snr: float, valley: Valley = VALLEY) -> float:
        """Standard deviation of the gradient noise: ``|f'(start)| / sqrt(snr)``."""
        return abs(float(valley.slope(self.start))) / math.sqrt(snr)


SCENARIOS = (Scenario("crossing", -1.5, 400), Scenario("minimising", 2.0, 1000))


def run(folder: Path) -> DemoResult:
    """Walk, tabulate, draw; writes ``asymmetric-valley.csv``, ``.png`` and ``.txt`` into ``folder``."""
    folder = output_folder(folder)
    table, shown = measure(WALKS, SEED)
    text = describe(table)
    write_text(folder / f"{NAME}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_text(folder / f"{NAME}.txt", text)
    sigma = SCENARIOS[1].sigma(SHOWN_SNR)
    figure = save_png(draw(VALLEY, RHO, sigma, SHOWN_SNR, shown, table), folder / f"{NAME}.png")
    return DemoResult(table, [figure], text)


def measure(walks: int, seed: int) -> tuple[pd.DataFrame, dict[str, dict[str, NDArray[np.float64]]]]:
    """The table (scenario x SNR x rule), and by scenario and rule the quartiles of the position over time
    at the shown SNR, shape ``(3, steps + 1)``.
    """
    rows = []
    shown: dict[str, dict[str, NDArray[np.float64]]] = {}
    for number, scenario in enumerate(SCENARIOS):
        # The same standard noise at every SNR and for every rule: differences are paired.
        standard = np.random.default_rng([seed, number]).standard_normal((scenario.horizon, walks))
        for snr in SNRS:
            sigma = scenario.sigma(snr)
            baseline: NDArray[np.float64] | None = None
            for rule in RULES:
                found = walk(VALLEY, rule, scenario.start, sigma * standard, LR, RHO)
                steps = found.first_crossing()
                baseline = steps if baseline is None else baseline
                rows.append(_row(scenario, snr, rule, found, steps, baseline))
                if snr == SHOWN_SNR:
                    quartiles = np.quantile(found.position, [0.25, 0.5, 0.75], axis=1)
                    shown.setdefault(scenario.name, {})[rule] = quartiles
    return pd.DataFrame(rows), shown


def _row(
    scenario: Scenario,
    snr: float,
    rule: str,
    found: Walks,
    steps: NDArray[np.float64],
    baseline: NDArray[np.float64],
) -> dict[str, object]:
    sigma = scenario.sigma(snr)
    mean = mean_interval(steps.tolist())
    saved = paired_difference(baseline.tolist(), steps.tolist())
    before = np.arange(scenario.horizon)[:, None] < steps
    last = found.position[-(scenario.horizon // 4) :]
    exact = expected_wrong = math.nan
    if rule in MEMORYLESS:
        exact = expected_steps(VALLEY, rule, scenario.start, sigma, LR, RHO, scenario.horizon)
    if rule == "noisy_sam":
        visited = found.position[:-1][before]
        expected_wrong = float(wrong_sign_probability(VALLEY, visited, sigma).mean())
    return {
        "scenario": scenario.name,
        "snr": snr,
        "rule": rule,
        "walks": len(steps),
        "horizon": scenario.horizon,
        "steps": mean.mean,
        "steps_low": mean.low,
        "steps_high": mean.high,
        "steps_exact": exact,
        "saved": saved.difference,
        "saved_low": saved.low,
        "saved_high": saved.high,
        "unfinished": float((found.position[1:] * np.sign(scenario.start) > 0).all(0).mean()),
        "wrong_sign": math.nan if rule == "sgd" else float(found.wrong[before].mean()),
        "wrong_sign_expected": expected_wrong,
        "rest_loss": float(VALLEY.loss(last).mean()),
        "rest_position": float(last.mean()),
    }


LABELS = {
    "sgd": "SGD",
    "ideal_sam": "ideal SAM",
    "noisy_sam": "noisy SAM (= InfoSAM)",
    "vasso_0.9": "VaSSO, theta .9",
    "vasso_0.1": "VaSSO, theta .1",
}


def describe(table: pd.DataFrame) -> str:
    """The findings in words, with every number and every "faster" or "slower" taken from the table."""
    crossing, minimising = SCENARIOS

    def at(scenario: Scenario, rule: str, snr: float = SHOWN_SNR) -> pd.Series:
        chosen = (table.scenario == scenario.name) & (table.rule == rule) & (table.snr == snr)
        return table[chosen].iloc[0]

    def line(scenario: Scenario, rule: str) -> str:
        row = at(scenario, rule)
        exact = "     -" if math.isnan(row.steps_exact) else f"{row.steps_exact:6.1f}"
        wrong = "   -" if math.isnan(row.wrong_sign) else f"{100 * row.wrong_sign:2.0f} %"
        interval = f"[{row.steps_low:.1f}, {row.steps_high:.1f}]"
        return (
            f"  {LABELS[rule]:<22} {row.steps:6.1f} {interval:<15} {exact}    {wrong}"
            f"      {row.rest_position:+.2f}    {row.rest_loss:.3f}"
        )

    def verdict(scenario: Scenario, rule: str, snr: float = SHOWN_SNR) -> str:
        row = at(scenario, rule, snr)
        if row.saved_low > 0:
            return f"faster than SGD by {row.saved:.1f} steps [{row.saved_low:.1f}, {row.saved_high:.1f}]"
        if row.saved_high < 0:
            return f"slower than SGD by {-row.saved:.1f} steps [{-row.saved_high:.1f}, {-row.saved_low:.1f}]"
        return f"not told apart from SGD ({row.saved:+.1f} steps [{row.saved_low:.1f}, {row.saved_high:.1f}])"

    def both(rule: str, snr: float = SHOWN_SNR) -> str:
        return f"(a) {verdict(crossing, rule, snr)} and (b) {verdict(minimising, rule, snr)}"

    holds = all(
        at(s, "ideal_sam").saved_low > 0 and at(s, "noisy_sam").saved_high < at(s, "ideal_sam").saved_low
        for s in SCENARIOS
    )
    head = f"  {'':<22} {'steps':>6} {'':<15} {'exact':>6}   wrong   rests at x   f(x)"
    blocks = []
    for mark, scenario, title in (
        ("a", crossing, "crossing from the sharper slope"),
        ("b", minimising, "minimising on the flatter slope"),
    ):
        title = f"({mark}) {title}, from x = {scenario.start:g}, at most {scenario.horizon} steps"
        blocks.append("\n".join([title, head, *(line(scenario, rule) for rule in RULES)]))
    paragraphs = [
        f"""f'(x) = {(VALLEY.flat - VALLEY.sharp) / 2:g} + {(VALLEY.sharp + VALLEY.flat) / 2:g} tanh((x +
        {-VALLEY.bend:.3f})/{VALLEY.width:g}): slopes -{VALLEY.sharp:g} and +{VALLEY.flat:g}, minimum f(0) =
        0; the paper's own function is not used. Step size {LR:g}, rho {RHO:g}, noise sigma =
        |f'(start)|/sqrt(SNR), SNR {SHOWN_SNR:g}, {int(table.walks.iloc[0])} walks. Steps: until the minimum
        is first reached or passed, mean with 95 % t-interval; exact: by quadrature of the Markov chain;
        wrong: share of looks downhill before that; rests: mean over the last quarter of all steps.""",
        *blocks,
        f"""{"Holds" if holds else "Does not hold"}: ideal SAM is faster, and noise spoils it. Ideal SAM is
        {both("ideal_sam")}. Noisy SAM is {both("noisy_sam")}; at SNR {min(SNRS):g} it is
        {both("noisy_sam", min(SNRS))}.""",
        """Why: in one dimension e = rho sign(g), so noise can only turn its sign, with probability p =
        Phi(-|f'(x)|/sigma) = Phi(-sqrt(SNR at x)). The mean slope descended is (1 - p) f'(x + rho s) + p
        f'(x - rho s), s = sign f'(x). As p nears 1/2, SAM becomes a smoothing of f, whose slope is smaller
        than f' wherever f' flattens out uphill: all of the flatter slope, and the far part of the
        sharper one.""",
        f"""Remedies: InfoSAM's C is a positive number in one dimension, which the normalisation removes, so
        InfoSAM is noisy SAM here. Averaging the gradient helps: VaSSO with theta .1 is {both("vasso_0.1")};
        with its default theta .9 it is {both("vasso_0.9")}.""",
        f"""Finding: how fast a rule gets there does not say where it rests. Noisy SAM and VaSSO rest farther
        out on the flatter side: in (b) at x =
        {at(minimising, "noisy_sam").rest_position:+.2f} (noisy SAM) and
        {at(minimising, "vasso_0.1").rest_position:+.2f} (VaSSO .1), against
        {at(minimising, "sgd").rest_position:+.2f} (SGD) and {at(minimising, "ideal_sam").rest_position:+.2f}
        (ideal SAM), with a higher loss. In (b) that bias towards the flatter side comes from looks in
        the wrong direction, which smooth f across its minimum, hardly from looking uphill.""",
    ]
    title = "Asymmetric valley (after arXiv 2501.06603, Appendix C)"
    return "\n\n".join([title, *(p if p in blocks else paragraph(p) for p in paragraphs)]) + "\n"


DEMO = Demo(
    NAME,
    "what noise does to SAM on a valley with two unlike slopes (after arXiv 2501.06603, App. C)",
    run,
)
