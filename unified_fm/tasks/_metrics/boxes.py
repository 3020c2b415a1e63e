"""Overlap of boxes, under both conventions in use, and the best constant box, which is a guess."""

from collections.abc import Callable
from typing import Any

import numpy as np

from unified_fm import choices

CONVENTIONS = ("continuous", "pixel")

_STARTS = 200  # true boxes tried as constant boxes before the best are refined
_MOVES = 24  # changes tried at once in each step of the refinement
_TARGETS = 1000  # boxes that the search looks at; its result is scored on all


def iou(a: np.ndarray, b: np.ndarray, convention: str = "continuous") -> np.ndarray:
    """Intersection over union of boxes f[... 4] (x, y, width, height), broadcast to f64[...].

    "continuous" are areas, as MDETR measures; 0 without any area. "pixel" is what REFER, X-VLM and
    X-FM measure: the last pixel is x + width - 1, an overlap has one pixel more than the
    difference, and is none unless its corners differ in both directions.
    """
    choices.check("convention", convention, CONVENTIONS)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    last = 1.0 if convention == "pixel" else 0.0
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - last
    some = np.all(high > low, axis=-1)
    shared = np.where(some, np.prod(high - low + last, axis=-1), 0.0)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def from_centre(boxes: np.ndarray) -> np.ndarray:
    """(cx, cy, width, height) f[... 4] as (x, y, width, height)."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:]], axis=-1)


def iou_of_centres(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Continuous overlap of boxes f[... 4] (cx, cy, width, height), broadcast."""
    return iou(from_centre(a), from_centre(b))


def best_constant_box(targets: np.ndarray, measure: Callable[..., Any]) -> np.ndarray:
    """The box f[4] (cx, cy, width, height) that would score best if predicted for every target.

    A search: many of the targets and their median as starts, then the best of them are moved and
    resized in ever smaller steps. `measure(iou f[... N], axis=-1)` is to be maximised (`np.mean`).
    """
    rng = np.random.default_rng(0)
    seen = targets[rng.permutation(len(targets))[:_TARGETS]]
    starts = np.concatenate([np.median(seen, axis=0, keepdims=True), seen[:_STARTS]])

    def score(boxes):
        return measure(iou_of_centres(boxes[:, None], seen[None]), axis=-1)

    order = np.argsort(-score(starts), kind="stable")[:8]
    boxes, best = starts[order], score(starts)[order]
    step = 0.25
    while step > 1e-3:
        moves = rng.normal(size=(_MOVES, 1, 4)) * step * rng.integers(0, 2, size=(_MOVES, 1, 4))
        tried = boxes[None] + moves  # f[moves starts 4]
        tried[..., 2:] = np.clip(tried[..., 2:], 1e-3, 1)
        scores = score(tried.reshape(-1, 4)).reshape(tried.shape[:2])
        winner = scores.argmax(axis=0)
        better = scores.max(axis=0) > best
        boxes = np.where(better[:, None], tried[winner, np.arange(len(boxes))], boxes)
        best = np.where(better, scores.max(axis=0), best)
        if not better.any():
            step *= 0.6
    return boxes[best.argmax()]
