"""Boxes: which are usable, what a crop leaves of them, and the patches they touch."""

import math
from typing import Any

import numpy as np

# A box may stick out of its image by this (annotators round); beyond it, it is an error.
_TOLERANCE_PIXELS = 2.0
_TOLERANCE_SHARE = 0.02


def parse(box: Any, height: int, width: int) -> tuple[np.ndarray | None, str]:
    """Checks one box [x, y, w, h] in pixels against its image.

    Returns:
        (f64[4] as x0, y0, x1, y1 clipped to the image, "") or (None, why it is unusable).
    """
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        return None, "box is not four numbers"
    if values.shape != (4,):
        return None, "box is not four numbers"
    if not np.isfinite(values).all():
        return None, "box has NaN or infinity"
    x, y, w, h = values
    if w <= 0 or h <= 0:
        return None, "box of zero or negative size"
    corners = np.array([x, y, x + w, y + h])
    limits = np.array([width, height, width, height], np.float64)
    clipped = np.clip(corners, 0, limits)
    if (abs(corners - clipped) > np.maximum(_TOLERANCE_PIXELS, _TOLERANCE_SHARE * limits)).any():
        return None, "box outside its image (x, y, w, h in pixels are needed, not x0, y0, x1, y1)"
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return None, "box outside its image (x, y, w, h in pixels are needed, not x0, y0, x1, y1)"
    return clipped, ""


def crop_around(
    box: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random crop that contains the box x0, y0, x1, y1: (top, left, height, width) (X-FM 2.5)."""
    left = int(rng.integers(math.floor(box[0]) + 1))
    top = int(rng.integers(math.floor(box[1]) + 1))
    right = int(rng.integers(min(math.ceil(box[2]), width), width + 1))
    bottom = int(rng.integers(min(math.ceil(box[3]), height), height + 1))
    return top, left, bottom - top, right - left


def through_crop(
    boxes: np.ndarray, crop: tuple[int, int, int, int], *, mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What a crop leaves of boxes.

    Args:
        boxes: f64[R 4], x0, y0, x1, y1 in pixels of the image.
        crop: (top, left, height, width).
        mirrored: whether the crop is flipped left to right afterwards.

    Returns:
        f64[R 4]: x0, y0, x1, y1 in 0..1 of the crop, clipped to it; bool[R]: more than half of the
        box's area is inside.
    """
    top, left, height, width = crop
    origin = np.array([left, top, left, top], np.float64)
    size = np.array([width, height, width, height], np.float64)
    clipped = np.clip(boxes - origin, 0, size)
    kept = area(clipped) > 0.5 * area(boxes)
    unit = clipped / size
    if mirrored:
        unit = np.stack([1 - unit[:, 2], unit[:, 1], 1 - unit[:, 0], unit[:, 3]], axis=1)
    return unit, kept


def area(boxes: np.ndarray) -> np.ndarray:
    """f[R]: areas of f[R 4] boxes x0, y0, x1, y1."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def to_centre(boxes: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 to centre x, centre y, width, height: f32[R 4]."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.concatenate([centre, boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float32)


def touched_patches(boxes: np.ndarray, grid: int) -> np.ndarray:
    """bool[R grid*grid]: the patches that each box (f[R 4], x0, y0, x1, y1 in 0..1) touches.

    At least one patch per box.
    """
    slack = 1e-6  # an edge on a patch border must not touch the next patch by rounding
    low = np.clip(np.floor(boxes[:, :2] * grid + slack), 0, grid - 1)
    high = np.clip(np.ceil(boxes[:, 2:] * grid - slack), low + 1, grid)
    line = np.arange(grid)
    inside = (line >= low[..., None]) & (line < high[..., None])  # bool[R 2 grid]: x, then y
    return (inside[:, 1, :, None] & inside[:, 0, None, :]).reshape(len(boxes), grid * grid)
