"""Coverage of the 95 % intervals of (phi, psi, mu) functionals on known spectra of 3000 eigenvalues.

Run: ``python benchmarks/coverage_universal.py`` (about six minutes on one core).
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from accuracy import markdown
from problems import RESULTS
from scipy import fft
from torch import Tensor

from sharpbench.functionals import FROBENIUS, TRACE, Measure, log_det_measure, power_sum_measure
from sharpbench.laws import Rademacher, ScaleInvariant, Sphere
from sharpbench.sharpness import KrylovBasis, of_hessian

D, SEEDS, COUNTS = 3000, 40, (8, 16, 32, 64)


class Rotated:
    """A symmetric matrix with known eigenvalues, rotated by two cosine transforms with random signs."""

    def __init__(self, eigenvalues: np.ndarray) -> None:
        rng = np.random.default_rng(1)
        self.dimension, self.hvps = len(eigenvalues), 0
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.eigenvalues = rng.permutation(eigenvalues).astype(np.float32)
        self.signs = [rng.choice([-1.0, 1.0], self.dimension).astype(np.float32) for _ in range(2)]
        #: the weights: of size one, so that scale-invariant laws keep the size of the functionals
        self.parameters = [torch.ones(self.dimension)]

    def session(self) -> nullcontext[None]:
        return nullcontext()

    def hvp(self, vectors: Tensor) -> Tensor:
        self.hvps += 1 if vectors.ndim == 1 else vectors.shape[1]
        x = vectors.numpy().T
        for signs in self.signs:
            x = fft.dct(x * signs, norm="ortho")
        x = x * self.eigenvalues
        for signs in self.signs[::-1]:
            x = fft.idct(x, norm="ortho") * signs
        return torch.from_numpy(np.ascontiguousarray(x.T))


def spectra() -> dict[str, np.ndarray]:
    """Bulks, power laws, outliers of one and of both signs, heavy tails, low rank."""
    rng = np.random.default_rng(0)
    i, u = np.arange(1, D + 1), rng.random(D)
    return {
        "10/i": 10.0 / i,
        "10/i²": 10.0 / i**2,
        "10/√i": 10.0 / np.sqrt(i),
        "one of 10⁴": np.r_[1e4, 0.1 * u[1:]],
        "ten outliers": np.r_[np.linspace(10, 100, 10), 0.1 * u[10:]],
        "outliers of both signs": np.r_[np.arange(10, 0, -1.0), -np.arange(10, 0, -1.0), 0.02 * u[20:]],
        "log-normal, σ = 3": 1e-3 * np.exp(3 * rng.standard_normal(D)),
        "log-normal, σ = 2, both signs": 1e-3 * np.exp(2 * rng.standard_normal(D)) * rng.choice([-1, 1], D),
        "semicircle": 4 * (rng.beta(1.5, 1.5, D) - 0.5),
        "uniform": u,
        "rank 5": np.r_[5.0, 4, 3, 2, 1, np.zeros(D - 5)],
        "twenty equal": np.r_[np.full(20, 10.0), 0.1 * u[20:]],
    }


def log_det(values: np.ndarray) -> float:
    """``log det(I + diag(values))``, minus infinity where it does not exist."""
    return float(np.log1p(values).sum()) if values.min() > -1 else -math.inf


def cells() -> dict[str, tuple[Measure, str]]:
    """Name → measure, and which functional of the eigenvalues it is."""
    base = {
        "tr H": TRACE,
        "‖H‖²": FROBENIUS,
        "tr H³": power_sum_measure(3),
        "log det, s = 0.1": log_det_measure(0.1),
        "log det, s = 0.5": log_det_measure(0.5),
        "log det, s = 1": log_det_measure(1.0),
    }
    found = {name: (measure, name) for name, measure in base.items()}
    for law, mu in (("sphere", Sphere("sqrt_d")), ("Rademacher", Rademacher())):
        found[f"tr H, {law}"] = (Measure("trace", TRACE.psi, TRACE.phi, mu), "tr H")
    # x is 1 here, and D_x H D_x = H.
    found["‖H‖², scale invariant"] = (
        Measure("frobenius", FROBENIUS.psi, FROBENIUS.phi, ScaleInvariant(FROBENIUS.mu)), "‖H‖²"
    )  # fmt: skip
    return found


TRUTHS = {
    "tr H": lambda e: float(e.sum()),
    "‖H‖²": lambda e: float((e**2).sum()),
    "tr H³": lambda e: float((e**3).sum()),
    "log det, s = 0.1": lambda e: log_det(0.01 * e),
    "log det, s = 0.5": lambda e: log_det(0.25 * e),
    "log det, s = 1": lambda e: log_det(e),
}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for spectrum, values in spectra().items():
        operator = Rotated(values)
        basis = KrylovBasis(operator, 30, torch.Generator().manual_seed(0))
        basis.grow(30)
        for n in COUNTS:
            for name, (measure, functional) in cells().items():
                truth = TRUTHS[functional](values)
                for given in (None, basis) if name in TRUTHS else (None,):
                    found = [of_hessian(operator, measure, n, seed, basis=given) for seed in range(SEEDS)]
                    held = [e.contains(truth) or math.isnan(e.value) and math.isinf(truth) for e in found]
                    widths = [e.half_width / abs(truth) for e in found if math.isfinite(e.half_width)]
                    row = {
                        "spectrum": spectrum, "n": n, "basis": "30 given" if given else "own",
                        "functional": name, "coverage_percent": 100 * sum(held) / SEEDS,
                        "median_half_width_percent": 100 * float(np.median(widths)) if widths else math.nan,
                        "unbounded": sum(math.isinf(e.ci_low) for e in found),
                        "undefined": sum(math.isnan(e.value) for e in found),
                        "converged": sum(e.converged for e in found),
                    }  # fmt: skip
                    rows.append(row)
        print(spectrum, flush=True)
    frame = pd.DataFrame(rows)
    frame["median_half_width_percent"] = frame["median_half_width_percent"].map(lambda v: float(f"{v:.3g}"))
    RESULTS.mkdir(exist_ok=True)
    frame.to_csv(RESULTS / "coverage_universal.csv", index=False)
    keys = ["functional", "basis", "n"]
    table = frame.groupby(keys, sort=False).agg(
        lowest_coverage_percent=("coverage_percent", "min"),
        mean_coverage_percent=("coverage_percent", "mean"),
        median_half_width_percent=("median_half_width_percent", "median"),
        unbounded=("unbounded", "sum"),
        undefined=("undefined", "sum"),
    )
    table = table.reset_index().round(1)
    lowest = frame["coverage_percent"].min()
    text = (
        f"# Coverage of the 95 % intervals of (phi, psi, mu) functionals\n\n"
        f"{len(spectra())} spectra of {D} eigenvalues, {SEEDS} seeds each; `n` products, of which half build "
        "a Krylov basis, or n probes with a given basis of 30 vectors. Coverage over the spectra: the lowest "
        f"and the mean (the lowest of all {len(frame)} cells is {lowest:g} %). *Unbounded*: intervals with "
        "an infinite end, where the products do not exclude that log det is infinite; *undefined*: where "
        "that was seen; both out of all spectra and seeds. One core; "
        "`python benchmarks/coverage_universal.py`. "
        "Every cell: coverage_universal.csv.\n\n"
    )
    (RESULTS / "coverage_universal.md").write_text(text + markdown(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
