"""Measures that did not reach their precision: drawn again within their error, or left out and counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .bootstrap import SEED, Floats
from .frames import Frames

# Half the width of a 95 % interval in standard errors of a normal distribution.
Z95 = 1.959963984540054
# How often uncertain values are drawn again; fewer for so many runs that all pairs of them take long.
MOST_DRAWS, FEWEST_DRAWS, PAIRS_COMPARED = 20, 5, 4e8


@dataclass(frozen=True)
class MeasuredValues:
    """One measure in the finished runs, in the order of ``frames.done``.

    Attributes:
        values: as measured; nan for a run without the measure, or whose value is left out.
        low: the lower end of the range that an unconverged value is drawn from; the value otherwise.
        high: the upper end.
        unconverged: the runs whose value missed the requested precision and takes part with its error.
        left_out: the runs whose value missed the precision and has no usable error (a bound).
    """

    values: Floats
    low: Floats
    high: Floats
    unconverged: NDArray[np.bool_]
    left_out: NDArray[np.bool_]

    @property
    def positive(self) -> bool:
        """Whether every value, and every value it may be drawn as, has a logarithm."""
        known = np.isfinite(self.values)
        return bool(known.any() and (self.low[known] > 0).all())

    def redrawn(self, keep: NDArray[np.intp]) -> Floats:
        """(draws, runs): the values of ``keep`` drawn again; no rows if all of them converged.

        Each side of an interval is half a normal distribution whose 97.5 % point is the end, so that an
        asymmetric interval is used as it is; for an interval of positive numbers, that of the logarithm.
        """
        uncertain = np.flatnonzero(self.unconverged[keep])
        if not len(uncertain):
            return np.empty((0, len(keep)))
        value, low, high = (each[keep][uncertain] for each in (self.values, self.low, self.high))
        count = int(np.clip(PAIRS_COMPARED / len(keep) ** 2, FEWEST_DRAWS, MOST_DRAWS))
        steps = np.random.default_rng(SEED).standard_normal((count, len(uncertain))) / Z95
        positive = low > 0
        log_low, log_value, log_high = (np.log(np.where(positive, each, 1.0)) for each in (low, value, high))
        by_logarithm = np.exp(
            log_value + steps * np.where(steps < 0, log_value - log_low, log_high - log_value)
        )
        linear = value + steps * np.where(steps < 0, value - low, high - value)
        drawn = np.repeat(self.values[keep][None, :], count, axis=0)
        drawn[:, uncertain] = np.where(positive, by_logarithm, linear)
        return drawn


def measured_values(frames: Frames, name: str) -> MeasuredValues:
    """The measure's values and what their errors allow.

    A value that converged (or does not say) is used as it is. An unconverged one is drawn from its 95 %
    interval or, without a finite one around it, from value ± 1.96 standard errors. If neither is finite
    and wider than zero, the value is a bound of unknown distance, and is left out.
    """
    done = frames.done
    rows = frames.measures[frames.measures["measure"] == name].set_index("run_id").reindex(done["run_id"])
    value, error, low, high = (
        rows[column].to_numpy(dtype="float64") for column in ("value", "std_error", "ci_low", "ci_high")
    )
    known = np.isfinite(value)
    missed = known & ~rows["converged"].astype("boolean").fillna(True).to_numpy(dtype=bool)
    with np.errstate(invalid="ignore"):
        inside = np.isfinite(low) & np.isfinite(high) & (low <= value) & (value <= high) & (low < high)
        low = np.where(inside, low, value - Z95 * error)
        high = np.where(inside, high, value + Z95 * error)
        usable = np.isfinite(low) & np.isfinite(high) & (low < high)
    unconverged, left_out = missed & usable, missed & ~usable
    values = np.where(left_out | ~known, np.nan, value)
    return MeasuredValues(
        values,
        np.where(unconverged, low, values),
        np.where(unconverged, high, values),
        unconverged,
        left_out,
    )


def left_out_counts(frames: Frames) -> pd.Series:
    """For each measure how many finished runs have it only as a bound."""
    counts = {name: int(measured_values(frames, name).left_out.sum()) for name in frames.measure_names}
    return pd.Series(counts, dtype="int64")
