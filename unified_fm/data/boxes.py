"""Boxes: how they are written, which are usable, what a crop leaves of them, patches they touch."""

import dataclasses
import math
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data import images
from unified_fm.data.skips import Parts

# How four numbers name a box. Fractions are of the image's width and height.
FORMATS = {
    "xywh": "x, y, width, height in pixels",
    "xyxy": "x0, y0, x1, y1 in pixels",
    "unit": "x, y, width, height as fractions, 0 to 1",
}
# In which image: "upright" is what a viewer shows, "stored" is before EXIF turns it.
FRAMES = ("upright", "stored")
# A box may stick out of its image by this (annotators round); beyond it, it is an error.
_TOLERANCE_PIXELS = 2.0
_TOLERANCE_SHARE = 0.02
_ROUNDING = 1e-6  # pixels; 0.1 of 10 pixels is one pixel


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxOptions:
    """How the boxes of a stream are written.

    Attributes:
        box_format: "xywh" (x, y, width, height in pixels), "xyxy" (x0, y0, x1, y1 in pixels) or
            "unit" (x, y, width, height as fractions of the image).
        exif: the image that the boxes were drawn in: "upright", as EXIF turns it and viewers show
            it, or "stored", before that.
    """

    box_format: str = "xywh"
    exif: str = "upright"

    def __post_init__(self):
        choices.check("box_format", self.box_format, FORMATS)
        choices.check("exif", self.exif, FRAMES)

    def read_box(
        self, box: Any, picture: images.Picture, parts: Parts
    ) -> tuple[np.ndarray | None, str]:
        """Checks one box as `parse` does; `parts` learns which other options it would fit."""
        size = picture.height, picture.width
        values = numbers(box)
        found, problem = parse(
            values,
            *size,
            box_format=self.box_format,
            orientation=picture.orientation if self.exif == "stored" else 1,
        )
        if values is not None:
            advices = mistakes(
                values,
                *size,
                box_format=self.box_format,
                frame=self.exif,
                orientation=picture.orientation,
                fits=found is not None,
            )
            parts.test(advices, failed=found is None)
        return found, problem


def parse(
    box: Any,
    height: int,
    width: int,
    *,
    box_format: str = "xywh",
    orientation: int = 1,
) -> tuple[np.ndarray | None, str]:
    """Checks one box against its image.

    Args:
        box: four numbers, as `box_format` says.
        height, width: of the upright image, in pixels.
        box_format: one of `FORMATS`.
        orientation: the EXIF orientation, where the box is one of the stored image; 1: it is one
            of the upright image.

    Returns:
        (f64[4] as x0, y0, x1, y1 in pixels of the upright image, clipped to it, "") or (None, why
        it is unusable).
    """
    values = numbers(box)
    if values is None:
        return None, "box is not four numbers"
    if orientation in images.TRANSPOSED:
        height, width = width, height
    clipped = _clipped(values, height, width, box_format)
    if isinstance(clipped, str):
        return None, clipped
    return np.array(_upright(clipped, orientation, height, width)), ""


def _clipped(values: list[float], height: int, width: int, box_format: str) -> list[float] | str:
    """x0, y0, x1, y1 of a box, clipped to the image that it was drawn in; or what is wrong."""
    if not all(map(math.isfinite, values)):
        return "box has NaN or infinity"
    x0, y0, x1, y1 = corners_of(values, box_format, height, width)
    if x1 <= x0 or y1 <= y0:
        return "box of zero or negative size"
    for low, high, limit in ((x0, x1, width), (y0, y1, height)):
        beyond = max(-low, low - limit, high - limit)
        if beyond > max(_TOLERANCE_PIXELS, _TOLERANCE_SHARE * limit):
            return "box outside its image"
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if x1 <= x0 or y1 <= y0:
        return "box outside its image"
    if min(x1 - x0, y1 - y0) < 1 - _ROUNDING:
        return "box below one pixel"
    return [x0, y0, x1, y1]


def numbers(box: Any) -> list[float] | None:
    """The four numbers of a box; None if it is something else."""
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        return None
    return values.tolist() if values.shape == (4,) else None


def mistakes(
    values: list[float],
    height: int,
    width: int,
    *,
    box_format: str,
    frame: str,
    orientation: int,
    fits: bool,
) -> list[str]:
    """What a box would fit if it were meant otherwise than the config says: advice in words.

    Any single box may fit by chance; `skips.Parts` asks how many of all do.

    Args:
        values: from `numbers`.
        height, width: of the upright image, in pixels.
        box_format, frame: of `FORMATS` and `FRAMES`, as the config says.
        orientation: the image's EXIF orientation, whatever the frame.
        fits: whether it fits as the config says.
    """
    upright, stored = (height, width), (height, width)
    if orientation in images.TRANSPOSED:
        stored = (width, height)
    said, other = (stored, upright) if frame == "stored" else (upright, stored)
    fractions = max(values) <= 1 and min(values) >= 0
    found = [
        _ADVICE[each]
        for each in (("unit",) if fractions else ("xyxy", "xywh"))
        if each != box_format and not isinstance(_clipped(values, *said, each), str)
    ]
    if other != said:
        fits = not isinstance(_clipped(values, *other, box_format), str)
    return [*found, _ADVICE["upright" if frame == "stored" else "stored"]] if fits else found


_ADVICE = {
    "xyxy": "these look like x0y0x1y1: set box_format='xyxy'",
    "unit": "these look like fractions: box_format='unit'",
    "xywh": "these look like x, y, width, height: set box_format='xywh'",
    "stored": "these fit the images as they are stored, before EXIF turns them: set exif='stored'",
    "upright": "these fit the images as EXIF turns them: set exif='upright'",
}


def corners_of(
    values: list[float], box_format: str, height: int, width: int
) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 in pixels of the image that the box was drawn in."""
    x, y, third, fourth = values
    if box_format == "xyxy":
        return x, y, third, fourth
    if box_format == "unit":
        x, y, third, fourth = x * width, y * height, third * width, fourth * height
    return x, y, x + third, y + fourth


def _upright(corners: list[float], orientation: int, height: int, width: int) -> list[float]:
    """Turns x0, y0, x1, y1 in a stored image of this size as EXIF turns its pixels."""
    x0, y0, x1, y1 = corners
    if orientation in images.TRANSPOSED:
        x0, y0, x1, y1 = y0, x0, y1, x1
        height, width = width, height
    if orientation in images.UPSIDE_DOWN:
        y0, y1 = height - y1, height - y0
    if orientation in images.MIRRORED:
        x0, x1 = width - x1, width - x0
    return [x0, y0, x1, y1]


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
