"""RandAugment on uint8 RGB arrays, the published variant (X-FM 5.3)."""

from collections.abc import Callable

import cv2
import numpy as np

from unified_fm import choices

# Two operations, each applied with probability 0.5, at level 7 of 10.
_OPERATIONS = 2
_PROBABILITY = 0.5
_LEVEL = 0.7
_FACTOR = 0.1 + 1.8 * _LEVEL  # 1.36 for brightness and sharpness, never below 1
_SHEAR = 0.3 * _LEVEL  # 0.21
_SHIFT = 10 * _LEVEL  # 7 pixels
_ANGLE = 30 * _LEVEL  # 21 degrees
_GREY = (128, 128, 128)


def randaugment(image: np.ndarray, rng: np.random.Generator, operations: str) -> np.ndarray:
    """Two random operations of a set.

    Args:
        image: u8[H W 3].
        operations: "A" (colour and geometry: images and pairs), "B" (colour only: regions, whose
            boxes must stay true), or "none".

    Raises:
        ValueError: an unknown set.
    """
    chosen = _operations(operations)
    if not chosen:
        return image
    for index, apply in zip(
        rng.integers(len(chosen), size=_OPERATIONS), rng.random(_OPERATIONS), strict=True
    ):
        if apply < _PROBABILITY:
            image = chosen[index](image, rng)
    return np.ascontiguousarray(image)


def _operations(name: str) -> tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...]:
    colour = (identity, autocontrast, equalize, brightness, sharpness)
    sets = {
        "A": (*colour, shear_x, shear_y, translate_x, translate_y, rotate),
        "B": colour,
        "none": (),
    }
    return sets[choices.check("randaugment", name, sets)]


def identity(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image as it is."""
    return image


def autocontrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stretches each channel to 0..255."""
    channels = cv2.split(image)  # one after the other: far faster than a strided minimum
    low = np.array([channel.min() for channel in channels], np.float64)
    high = np.array([channel.max() for channel in channels], np.float64)
    flat = high <= low
    scale = np.where(flat, 1.0, 255.0 / np.where(flat, 1.0, high - low))
    offset = np.where(flat, 0.0, -low * scale)
    table = np.clip(np.arange(256.0)[:, None] * scale + offset, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])


def equalize(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes the histogram of each channel flat, in Pillow's way."""
    tables = []
    for channel in range(3):
        counts = (
            cv2.calcHist([image], [channel], None, [256], [0, 256]).reshape(-1).astype(np.int64)
        )
        used = counts[counts > 0]
        step = (used.sum() - used[-1]) // 255
        if len(used) == 1 or step == 0:
            tables.append(np.arange(256))
        else:
            below = np.concatenate([[0], np.cumsum(counts)[:-1]])
            tables.append(np.minimum((step // 2 + below) // step, 255))
    return cv2.LUT(image, np.stack(tables, axis=-1).astype(np.uint8)[None])


def brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values times 1.36."""
    table = np.clip(np.arange(256) * _FACTOR, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def sharpness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Away from the smoothed image by 1.36; the border stays."""
    kernel = np.full((3, 3), 1 / 13, np.float32)
    kernel[1, 1] = 5 / 13
    smooth = cv2.filter2D(image, -1, kernel)
    out = image.copy()
    inner = (slice(1, -1), slice(1, -1))
    sharp = cv2.addWeighted(image, _FACTOR, smooth, 1 - _FACTOR, 0)
    out[inner] = sharp[inner]
    return out


def shear_x(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows shifted by 0.21 of their height."""
    return _warp(image, [[1, _sign(rng) * _SHEAR, 0], [0, 1, 0]])


def shear_y(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Columns shifted by 0.21 of their distance from the left."""
    return _warp(image, [[1, 0, 0], [_sign(rng) * _SHEAR, 1, 0]])


def translate_x(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifted by 7 pixels sideways."""
    return _warp(image, [[1, 0, _sign(rng) * _SHIFT], [0, 1, 0]])


def translate_y(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifted by 7 pixels up or down."""
    return _warp(image, [[1, 0, 0], [0, 1, _sign(rng) * _SHIFT]])


def rotate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turned by 21 degrees about the centre."""
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D((width / 2, height / 2), _sign(rng) * _ANGLE, 1))


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _warp(image: np.ndarray, matrix) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, np.asarray(matrix, np.float32), size, borderValue=_GREY)
