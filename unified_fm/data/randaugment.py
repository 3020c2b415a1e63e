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
_SHIFT = 7  # pixels: 10 * _LEVEL
_ANGLE = 30 * _LEVEL  # 21 degrees
_GREY = (128, 128, 128, 128)
_VALUES = np.arange(256.0)
_AS_IT_IS = np.arange(256, dtype=np.uint8)
_DOWN = -0.48  # added before rounding, it cuts off the fraction of n * 1.36, which is k / 25
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def randaugment(image: np.ndarray, rng: np.random.Generator, operations: str) -> np.ndarray:
    """Two random operations of a set.

    Args:
        image: u8[H W 3].
        operations: "A" (colour and geometry: images and pairs), "B" (colour only: regions, whose
            boxes must stay true), or "none".

    Raises:
        ValueError: an unknown set.
    """
    chosen = _SETS[choices.check("randaugment", operations, _SETS)]
    if not chosen:
        return image
    for index, apply in zip(
        rng.integers(len(chosen), size=_OPERATIONS), rng.random(_OPERATIONS), strict=True
    ):
        if apply < _PROBABILITY:
            image = chosen[index](image, rng)
    return np.ascontiguousarray(image)


def identity(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image as it is."""
    return image


def autocontrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stretches each channel to 0..255."""
    return _looked_up(image, _stretched)


def _stretched(channel: np.ndarray) -> np.ndarray:
    low, high, _, _ = cv2.minMaxLoc(channel)
    if high <= low:
        return _AS_IT_IS
    scale = 255.0 / (high - low)
    return np.clip(_VALUES * scale + -low * scale, 0, 255).astype(np.uint8)


def equalize(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes the histogram of each channel flat, in Pillow's way."""
    return _looked_up(image, _flattened)


def _flattened(channel: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([channel], [0], None, [256], [0, 256]).reshape(-1).astype(np.int64)
    used = counts[counts > 0]
    step = (channel.size - used[-1]) // 255
    if len(used) == 1 or step == 0:
        return _AS_IT_IS
    below = np.cumsum(counts) - counts
    return np.minimum((step // 2 + below) // step, 255).astype(np.uint8)


def _looked_up(image: np.ndarray, table: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Each channel through its own table: of planes it is far faster than of pixels."""
    return cv2.merge([cv2.LUT(channel, table(channel)) for channel in cv2.split(image)])


def brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values times 1.36."""
    return cv2.convertScaleAbs(image, alpha=_FACTOR, beta=_DOWN)


def sharpness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Away from the smoothed image by 1.36; the border stays."""
    smooth = cv2.filter2D(image, -1, _SMOOTH)
    sharp = cv2.addWeighted(image, _FACTOR, smooth, 1 - _FACTOR, 0)
    for edge in (0, -1):
        sharp[edge], sharp[:, edge] = image[edge], image[:, edge]
    return sharp


def shear_x(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows shifted by 0.21 of their height."""
    return _warp(image, [[1, _sign(rng) * _SHEAR, 0], [0, 1, 0]])


def shear_y(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Columns shifted by 0.21 of their distance from the left."""
    return _warp(image, [[1, 0, 0], [_sign(rng) * _SHEAR, 1, 0]])


def translate_x(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifted by 7 pixels sideways."""
    return _shifted(image, 0, _sign(rng) * _SHIFT)


def translate_y(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifted by 7 pixels up or down."""
    return _shifted(image, _sign(rng) * _SHIFT, 0)


def _shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """As a warp by whole pixels, in a twentieth of its time."""
    height, width = image.shape[:2]
    out = np.full_like(image, _GREY[0])
    out[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return out


def rotate(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turned by 21 degrees about the centre."""
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D((width / 2, height / 2), _sign(rng) * _ANGLE, 1))


def _sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _warp(image: np.ndarray, matrix) -> np.ndarray:
    """Through four channels: OpenCV is twice as fast with them, conversions included."""
    size = (image.shape[1], image.shape[0])
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    warped = cv2.warpAffine(four, np.asarray(matrix, np.float32), size, borderValue=_GREY)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


_COLOUR = (identity, autocontrast, equalize, brightness, sharpness)
_SETS: dict[str, tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...]] = {
    "A": (*_COLOUR, shear_x, shear_y, translate_x, translate_y, rotate),
    "B": _COLOUR,
    "none": (),
}
