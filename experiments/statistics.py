"""Means, confidence intervals, paired differences and shares over the seeds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval, of 95 % unless another level was asked for.

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


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of independent values, two or more.

    Raises:
        ValueError: fewer than two values.
    """
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        raise ValueError(f"an interval needs at least 2 values, found {len(array)}")
    error = array.std(ddof=1) / np.sqrt(len(array))
    half = float(scipy.stats.t.ppf((1 + level) / 2, len(array) - 1) * error)
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


def p_value(differences: Sequence[float]) -> float:
    """Of the paired t test that differences have mean 0."""
    return float(scipy.stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float], level: float = 1 - LEVEL) -> list[bool]:
    """Which of several tests reject, if any false one may in `level` of all cases (Holm)."""
    found = [False] * len(p_values)
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[i] > level / (len(p_values) - rank):
            break
        found[i] = True
    return found


def share(part: Sequence[float], whole: Sequence[float]) -> Interval | None:
    """The ratio of two paired means and its interval, by Fieller.

    The interval holds the ratios r for which `part - r * whole` does not measurably differ from 0.

    Returns:
        None where `whole` does not measurably differ from 0: then no interval is bounded.

    Raises:
        ValueError: not the same number of seeds, or fewer than two.
    """
    if not (paired(whole, np.zeros(len(part)))).excludes_zero:
        return None
    count = len(part)
    (a, ab), (_, b) = np.cov(part, whole) / count
    t = float(scipy.stats.t.ppf((1 + LEVEL) / 2, count - 1))
    up, down = float(np.mean(part)), float(np.mean(whole))
    # The roots r of (up - r down)^2 = t^2 (a - 2 r ab + r^2 b).
    square, middle, rest = down**2 - t**2 * b, up * down - t**2 * ab, up**2 - t**2 * a
    half = float(np.sqrt(max(middle**2 - square * rest, 0.0)))
    return Interval(up / down, (middle - half) / square, (middle + half) / square)
