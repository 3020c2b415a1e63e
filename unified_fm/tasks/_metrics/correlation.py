"""Pearson's and Spearman's correlation; a constant has none, and counts as 0.

SciPy gives NaN there, and a NaN that is compared wins or loses every model selection by accident.
"""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._metrics import statistic
from unified_fm.tasks._metrics.classification import check_lengths
from unified_fm.tasks._metrics.statistic import Statistic

_ROUNDING = 1e-13  # of a variance relative to the mean square: what is below it is rounding


def pearson(predictions: Sequence[float], truth: Sequence[float]) -> Statistic:
    """Pearson's r, -1 to 1; 0 where predictions or truth are constant (or not finite)."""
    x, y = _pairs(predictions, truth)
    # Shifted and scaled, which r does not see, so that the sums of squares do not cancel.
    x, y = _standard(x), _standard(y)
    rows = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)
    return statistic.of_sums(rows, _from_sums)


def spearman(predictions: Sequence[float], truth: Sequence[float]) -> Statistic:
    """Spearman's rho, Pearson's r of the ranks, ties at their average; 0 as for `pearson`."""

    def of(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        a, b = (_ranks(column, counts) for column in rows.T)
        total = counts.sum(axis=1)
        a, b = (r - ((counts * r).sum(axis=1) / total)[:, None] for r in (a, b))
        both = (counts * a * b).sum(axis=1)
        return _safe(both, (counts * a * a).sum(axis=1), (counts * b * b).sum(axis=1), total**3)

    return Statistic(np.stack(_pairs(predictions, truth), axis=1), of, additive=False)


def constant(values: Sequence[float]) -> bool:
    """Whether a correlation with these is none: all equal, or one is not finite."""
    found = np.asarray(values, np.float64)
    return bool(not np.isfinite(found).all() or np.ptp(found) == 0)


def _pairs(predictions: Sequence[float], truth: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    check_lengths(predictions, truth)
    x, y = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if not np.isfinite(x).all():  # a prediction that is no number correlates with nothing
        x = np.zeros_like(x)
    return x, y


def _standard(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    largest = np.abs(values).max()
    return values / largest if largest > 0 else values


def _from_sums(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = sums.T
    return _safe(n * xy - x * y, n * xx - x * x, n * yy - y * y, n * n)


def _safe(both: np.ndarray, first: np.ndarray, second: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """both / sqrt(first second), and 0 where a variance is none but for rounding."""
    some = (first > _ROUNDING * scale) & (second > _ROUNDING * scale)
    below = np.sqrt(np.where(some, first * second, 1.0))
    return np.where(some, np.clip(both / below, -1.0, 1.0), 0.0)


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """f64[R K]: the average rank of each value in each bag that holds it `counts` f[R K] times."""
    order = np.argsort(values, kind="stable")
    new = np.concatenate([[True], np.diff(values[order]) > 0])
    sizes = np.add.reduceat(counts[:, order], np.flatnonzero(new), axis=1)  # of each tie
    before = np.cumsum(sizes, axis=1) - sizes
    tie = np.empty(len(values), int)
    tie[order] = np.cumsum(new) - 1
    return (before + (sizes + 1) / 2)[:, tie]
