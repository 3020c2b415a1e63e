"""Referring expressions: the share of expressions whose box overlaps the right one by half."""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._metrics import boxes, statistic
from unified_fm.tasks._metrics.statistic import Statistic

THRESHOLD = 0.5  # reached counts: >=


def measures(
    predictions: np.ndarray, truth: np.ndarray, convention: str = "continuous"
) -> dict[str, Statistic]:
    """`accuracy` (IoU of at least 0.5) and `mean_iou`, over expressions.

    Args:
        predictions: f[N 4] (x, y, width, height) in pixels of the original image, not clipped.
        truth: f[N 4], alike.
        convention: "continuous" (MDETR) or "pixel" (REFER, X-VLM, X-FM); see `boxes.iou`.

    Raises:
        ValueError: shapes that do not fit, or a box that is not of finite numbers.
    """
    predictions, truth = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if predictions.shape != truth.shape or predictions.shape[1:] != (4,) or not len(truth):
        raise ValueError(f"boxes are f[N 4]; found {predictions.shape} for {truth.shape}")
    if not np.isfinite(predictions).all():
        wrong = np.flatnonzero(~np.isfinite(predictions).all(axis=1))
        raise ValueError(f"{len(wrong)} boxes are not four finite numbers; the first is {wrong[0]}")
    overlap = boxes.iou(predictions, truth, convention)
    return {
        "accuracy": statistic.share(overlap >= THRESHOLD),
        "mean_iou": statistic.mean(overlap),
    }


def metrics(
    predictions: np.ndarray, truth: np.ndarray, convention: str = "continuous"
) -> dict[str, float]:
    """The numbers of `measures`."""
    return statistic.values(measures(predictions, truth, convention))


def from_unit(found: np.ndarray, width: Sequence[int], height: Sequence[int]) -> np.ndarray:
    """(cx, cy, w, h) f[N 4] as fractions of each image, as (x, y, width, height) in its pixels."""
    scale = np.stack([width, height, width, height], axis=1).astype(np.float64)
    return boxes.from_centre(np.asarray(found, np.float64)) * scale


def chance(
    truth: np.ndarray, sizes: np.ndarray, convention: str = "continuous"
) -> dict[str, float]:
    """What the best constant box reaches, searched for accuracy; `sizes` is i[N 2] (width, height).

    One box relative to the image, for all of them.
    """
    width, height = np.asarray(sizes, np.float64).T
    scale = np.stack([width, height, width, height], axis=1)
    unit = np.asarray(truth, np.float64) / scale
    centres = np.concatenate([unit[:, :2] + unit[:, 2:] / 2, unit[:, 2:]], axis=1)
    constant = boxes.best_constant_box(
        centres, lambda overlap, axis=None: np.mean(overlap >= THRESHOLD, axis=axis)
    )
    guesses = from_unit(np.tile(constant, (len(truth), 1)), width.tolist(), height.tolist())
    return metrics(guesses, truth, convention)
