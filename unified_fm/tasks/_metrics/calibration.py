"""Whether probabilities are to be believed: bins of confidence, their error, and one temperature.

Guo et al. 2017 (arXiv 1706.04599). NumPy alone: whoever has the logits asks the model.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

HIGH = 64.0  # the largest inverse temperature that is looked at; 1 / HIGH is the least


class Bins(NamedTuple):
    """Answers by their confidence, in bins of equal width over 0..1.

    Attributes:
        count: i64[M], answers in each bin.
        confidence: f64[M], their mean confidence; 0 where there is none.
        accuracy: f64[M], the share of right ones; 0 where there is none.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def binned(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Bins:
    """Sorts answers into bins: number m of M has the confidences in (m / M, (m + 1) / M].

    Args:
        confidence: f[N], the probability of the answer.
        right: bool[N].
        bins: M.
    """
    confidence = np.asarray(confidence, np.float64)
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    sums = (np.bincount(which, weights=x, minlength=bins) for x in (confidence, right))
    means = (total / np.maximum(count, 1) for total in sums)
    return Bins(count, *means)


def expected_error(bins: Bins) -> float:
    """The expected calibration error: mean distance of accuracy and confidence over answers."""
    gap = np.abs(bins.accuracy - bins.confidence)
    return float((bins.count * gap).sum() / max(bins.count.sum(), 1))


def minimum(
    slopes: Callable[[float], tuple[float, float]],
    low: float = 1 / HIGH,
    high: float = HIGH,
    tolerance: float = 1e-4,
    steps: int = 40,
) -> float:
    """Where a convex function of a positive number is least, by Newton's steps inside a bracket.

    Cross-entropy is such a function of the inverse temperature 1 / T.

    Args:
        slopes: its first and second derivative at a number.
        low, high: the bracket; if it has no minimum inside, the end that is nearer to it.
        tolerance: relative, of the result.
        steps: at most so many.
    """
    at = 1.0
    for _ in range(steps):
        slope, curve = slopes(at)
        if slope == 0:
            return at
        low, high = (low, at) if slope > 0 else (at, high)
        wanted = at - slope / curve if curve > 0 else math.inf
        if not low < wanted < high:
            wanted = math.sqrt(low * high)
        if abs(wanted - at) <= tolerance * at:
            return wanted
        at = wanted
    return at
