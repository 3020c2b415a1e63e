"""Means, confidence intervals and paired differences over the seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval.

    Attributes:
        mean: over the seeds.
        low, high: ends of the interval.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the number is above or below 0 as surely as the interval says."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean of independent values, two or more.

    Raises:
        ValueError: fewer than two values.
    """
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        raise ValueError(f"an interval needs at least 2 values, found {len(array)}")
    error = array.std(ddof=1) / np.sqrt(len(array))
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(array) - 1) * error)
    mean = float(array.mean())
    return Interval(mean, mean - half, mean + half)


def paired(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """The interval of the differences `values - reference`, seed by seed.

    Raises:
        ValueError: not the same number of seeds.
    """
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} seeds cannot be paired with {len(reference)}")
    return interval(np.asarray(values, np.float64) - np.asarray(reference, np.float64))
