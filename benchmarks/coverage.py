"""Coverage of the 95 % intervals over 400 seeds, on the exact Hessians of a trained MLP.

Run: ``python benchmarks/coverage.py``.
"""

from __future__ import annotations

import pandas as pd
import torch
from accuracy import markdown
from problems import RESULTS, MatrixOperator, trained_hessians

from sharpbench.sharpness import DenseSpectrum, spectrum

# A hundred would give each share an error of two percent: too much to tell 93 from 89.
SEEDS = 400
BUDGETS = (75, 100)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for stage, matrix in trained_hessians().items():
        exact = DenseSpectrum(torch.linalg.eigvalsh(matrix).numpy(), 0)
        truth = {
            "trace": exact.trace().value,
            "frobenius_norm": exact.frobenius_norm().value,
            "log_determinant": exact.log_determinant().value,
            "log_determinant, relative": exact.log_determinant(relative=True).value,
        }
        for budget in BUDGETS:
            hits = dict.fromkeys(truth, 0)
            widths: dict[str, float] = dict.fromkeys(truth, 0.0)
            for seed in range(SEEDS):
                found = spectrum(MatrixOperator(matrix), hvps=budget, seed=seed)
                estimates = {
                    "trace": found.trace(),
                    "frobenius_norm": found.frobenius_norm(),
                    "log_determinant": found.log_determinant(),
                    "log_determinant, relative": found.log_determinant(relative=True),
                }
                for name, estimate in estimates.items():
                    hits[name] += estimate.contains(truth[name])
                    widths[name] += estimate.half_width / abs(truth[name]) / SEEDS
            for name in truth:
                rows.append(
                    {"stage": stage, "hvps": budget, "quantity": name,
                     "coverage_percent": 100 * hits[name] / SEEDS,
                     "mean_half_width_percent": round(100 * widths[name], 3)}
                )  # fmt: skip
                print(*rows[-1].values(), flush=True)
    frame = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "coverage.csv", index=False)
    text = (
        f"# Coverage of the 95 % intervals\n\nShare of {SEEDS} seeds whose interval holds the exact value "
        f"(each share is known to about {100 * (0.95 * 0.05 / SEEDS) ** 0.5:.0f} percent). "
        "Exact Hessians of an MLP of 1810 weights. 2 CPU cores; `python benchmarks/coverage.py`.\n\n"
    )
    (RESULTS / "coverage.md").write_text(text + markdown(frame) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
