"""The noisy gradient of the adversarial-model case study, and the directions each rule makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import must_be

Array = NDArray[np.float64]

#: arXiv 2501.06603, Appendix D.
TRUE_GRADIENT = (0.2, -0.02, 0.01)


@dataclass(frozen=True)
class NoiseDesign:
    """Stochastic gradients ``g = grad f + noise``, ``noise ~ N(0, a diag(shape))``, of a given SNR.

    ``SNR = ||grad f||^2 / E||noise||^2``, so ``a = ||grad f||^2 / (SNR * sum(shape))``.

    Example:
        >>> design = NoiseDesign("published", (0.2, 2.0, 1.0), snr=0.1)
        >>> [round(float(v), 4) for v in design.variances]
        [0.0253, 0.2531, 0.1266]
    """

    name: str
    shape: tuple[float, float, float]
    snr: float
    gradient: tuple[float, float, float] = TRUE_GRADIENT

    def __post_init__(self) -> None:
        if not self.snr > 0:
            raise must_be("snr", "> 0", self.snr)
        if not min(self.shape) > 0:
            raise must_be("shape of the covariance", "> 0 in every entry", self.shape)

    @property
    def mean(self) -> Array:
        return np.array(self.gradient)

    @property
    def variances(self) -> Array:
        """Diagonal of the noise covariance, shape ``(3,)``."""
        shape = np.array(self.shape)
        variances: Array = shape * (self.mean @ self.mean) / (self.snr * shape.sum())
        return variances


@dataclass(frozen=True)
class Standardised:
    """The randomness behind every design: one sample of it serves all, so that they compare.

    Attributes:
        last: the latest standard normal of each of n independent runs, shape ``(n, 3)``.
        mean: the exponential running mean of each run before ``last``, from m_0 = g_0.
        square: the running mean of the squared deviations ``(m_{t-1} - g_t)^2``, ``last`` included.
    """

    last: Array
    mean: Array
    square: Array


def standardised_runs(n: int, steps: int, alpha: float, seed: int) -> Standardised:
    """Draw n runs of ``steps`` i.i.d. standard normal gradients, with InfoSAM's running mean.

    ``alpha`` is the weight of the new gradient. The linear map ``mean + sqrt(variances) * z`` turns them
    into any design's runs.

    Raises:
        InvalidInput: fewer than two steps.
    """
    if steps < 2:
        raise must_be("steps", ">= 2 (the first gradient only starts the running mean)", steps)
    draws = np.random.default_rng(seed)
    mean = draws.standard_normal((n, 3))
    square = np.zeros((n, 3))
    last = mean
    for step in range(1, steps):
        last = draws.standard_normal((n, 3))
        deviation = (mean - last) ** 2
        square = deviation if step == 1 else square + alpha * (deviation - square)
        if step < steps - 1:
            mean = mean + alpha * (last - mean)
    return Standardised(last, mean, square)


def directions(design: NoiseDesign, runs: Standardised, floor: float = 0.1) -> dict[str, Array]:
    """Unit vectors of the perturbation e (its sign included) by rule, each of shape ``(n, 3)``.

    - ``sam``: g / ||g||. At x = 0 ASAM's T = |x| + eta is a multiple of the identity: the same directions.
    - ``infosam``: C g with C = diag(1 / sigma^2), the *true* variances (Appendix D).
    - ``infosam_estimated``: the algorithm's own rule (eq. 7), sigma^2 = (m - g)^2 from one deviation, with
      the relative floor of :class:`sharpbench.optim.InfoSAM`.
    - ``infosam_averaged``: not in the paper: sigma^2 as a running mean of (m - g)^2 with the same alpha.
    - ``l1``: the coordinate axis of the largest |g_i| (Table II).

    L-infinity SAM's sign(g) has only the eight diagonals to choose from, none within 54 degrees of a
    coordinate axis, so its share near this gradient is zero by construction; it is left out.
    """
    scale = np.sqrt(design.variances)
    g = design.mean + scale * runs.last
    deviation = (scale * (runs.mean - runs.last)) ** 2
    averaged = design.variances * runs.square
    largest = np.abs(g) == np.abs(g).max(1, keepdims=True)
    raw = {
        "sam": g,
        "infosam": g / design.variances,
        "infosam_estimated": g / _floored(deviation, floor),
        "infosam_averaged": g / _floored(averaged, floor),
        "l1": np.where(largest, g, 0.0),
    }
    return {rule: vector / np.linalg.norm(vector, axis=1, keepdims=True) for rule, vector in raw.items()}


def _floored(variance: Array, floor: float) -> Array:
    raised: Array = variance + floor * variance.mean(1, keepdims=True)
    return raised
