"""Boxes: how large, how many, and whether four numbers are what the config takes them for.

Each box is read in every form in which boxes are written, by the pipeline's own rule of what fits
its image. One box fits several; of thousands, nearly all fit the right one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unified_fm.data import boxes, images
from unified_fm.data.skips import ENOUGH, EXPLAINED, Skip
from unified_fm.doctor.findings import Findings

_APART = 50  # boxes by which two forms can be told apart, where both fit
_NEAR = 2.0  # pixels from the corner, below which x, y, w, h and x0, y0, x1, y1 are alike
# Edges of the histogram of areas, as shares of the image.
AREAS = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.9)


# The same box in pixels, as one of `boxes.FORMATS`, from its numbers, the height and the width.
_ToPixels = Callable[[Sequence[float], int, int], tuple[Sequence[float], str]]


class Form(NamedTuple):
    """A way to write a box.

    Attributes:
        says: what the four numbers are.
        to: makes pixels of them.
        advice: what is to be done where a file is written so.
    """

    says: str
    to: _ToPixels
    advice: str


def _scaled(inner: str, scale: float = 1.0) -> _ToPixels:
    """Numbers in 0..`scale` of the image's sides, otherwise as the form `inner`."""

    def to(v: Sequence[float], height: int, width: int) -> tuple[Sequence[float], str]:
        sides = (width, height, width, height)
        return FORMS[inner].to(
            [x * s / scale for x, s in zip(v, sides, strict=True)], height, width
        )

    return to


_CONVERT = "write them as x, y, width, height in pixels"
FORMS: dict[str, Form] = {
    "xywh": Form("x, y, width, height", lambda v, h, w: (v, "xywh"), "set box_format='xywh'"),
    "xyxy": Form("x0, y0, x1, y1", lambda v, h, w: (v, "xyxy"), "set box_format='xyxy'"),
    "unit": Form(
        "x, y, width, height as fractions", lambda v, h, w: (v, "unit"), "set box_format='unit'"
    ),
    "cxcywh": Form(
        "centre x, centre y, width, height",
        lambda v, h, w: ([v[0] - v[2] / 2, v[1] - v[3] / 2, v[2], v[3]], "xywh"),
        _CONVERT,
    ),
    "yxyx": Form(
        "y0, x0, y1, x1 (swapped axes)",
        lambda v, h, w: ([v[1], v[0], v[3], v[2]], "xyxy"),
        _CONVERT,
    ),
    "yxhw": Form(
        "y, x, height, width (swapped axes)",
        lambda v, h, w: ([v[1], v[0], v[3], v[2]], "xywh"),
        _CONVERT,
    ),
}
# Of fractions it cannot be told whether the axes are swapped: both fit every picture.
for _name in ("xyxy", "cxcywh"):
    FORMS[f"unit {_name}"] = Form(
        f"{FORMS[_name].says} as fractions of the image", _scaled(_name), _CONVERT
    )
FORMS["thousandth xyxy"] = Form(
    "x0, y0, x1, y1 in thousandths of the image, or with swapped axes",
    _scaled("xyxy", 1000.0),
    _CONVERT,
)


def look(example: dict[str, Any], pipeline: Any, found: Findings) -> bytes:
    """Measures the boxes of an example whose picture can be opened; gives them as bytes."""
    regions = example.get("regions")
    if not isinstance(pipeline, boxes.BoxOptions) or not isinstance(regions, list | tuple):
        return b""
    written = repr([region.get("box") for region in regions if isinstance(region, dict)]).encode()
    try:
        picture = images.Picture(example.get("image", b""), max_pixels=images.MOST_PIXELS)
    except Skip:
        return written
    turned = picture.orientation if pipeline.exif == "stored" else 1
    found.add("boxes_in_an_image", str(len(regions)))
    for region in regions:
        values = boxes.numbers(region.get("box")) if isinstance(region, dict) else None
        found.add("boxes", "all")
        if values is None or not all(map(math.isfinite, values)):
            continue
        corners, _ = boxes.parse(
            values, picture.height, picture.width, box_format=pipeline.box_format,
            orientation=turned,
        )  # fmt: skip
        if corners is not None:
            found.add("boxes", "fit")
            _size(corners, picture, found)
        _try(values, picture, turned, corners is None, found)
    return written


def declared_fits_too(values: Sequence[float]) -> bool:
    """Whether x, y, w, h could as well be x0, y0, x1, y1, and is not so near to the corner that
    both are the same."""
    x, y, third, fourth = values
    return min(x, y) > _NEAR and third > x and fourth > y


def mistake(found: Findings, box_format: str) -> str:
    """What the boxes seem to be, where most of those that do not fit would fit then; else ""."""
    tried, failed = found.table("boxes")["tried"], found.table("boxes")["failed"]
    for form in FORMS:
        fit, mended = found.table("form_fits")[form], found.table("form_mends")[form]
        explained = min(fit / max(tried, 1), mended / max(failed, 1))
        if form != box_format and failed >= ENOUGH and explained >= EXPLAINED:
            return f"the boxes look like {FORMS[form].says}: {FORMS[form].advice}"
    return ""


def undecided(found: Findings, box_format: str) -> str:
    """That all boxes may be corners although the config says sizes, and all fit; else ""."""
    far, both = found.table("boxes")["far from the corner"], found.table("boxes")["also corners"]
    if box_format == "xywh" and far == both >= _APART:
        return (
            f"all {far:,} boxes that do not begin at the corner would also fit as x0, y0, x1, y1,"
            " which hardly happens by chance: look at the pictures of `data show`, and set"
            " box_format='xyxy' if the boxes there are too large"
        )
    return ""


def _try(
    values: list[float], picture: images.Picture, turned: int, failed: bool, found: Findings
) -> None:
    height, width = picture.height, picture.width
    if turned in images.TRANSPOSED:
        height, width = width, height
    found.add("boxes", "tried")
    found.add("boxes", "failed", failed)
    if min(values[:2]) > _NEAR:
        found.add("boxes", "far from the corner")
        found.add("boxes", "also corners", declared_fits_too(values))
    for form, (_, to, _) in FORMS.items():
        if form.startswith("unit") and not (max(values) <= 1.0 and min(values) >= 0.0):
            continue
        if form.startswith("thousandth") and not max(values) <= 1000:
            continue
        meant, box_format = to(values, height, width)
        fits, _ = boxes.parse(
            meant, picture.height, picture.width, box_format=box_format, orientation=turned
        )
        if fits is not None:
            found.add("form_fits", form)
            found.add("form_mends", form, failed)


def _size(corners: np.ndarray, picture: images.Picture, found: Findings) -> None:
    x0, y0, x1, y1 = corners
    area = (x1 - x0) * (y1 - y0) / (picture.height * picture.width)
    found.add("box_area", str(int(np.searchsorted(AREAS, area, side="right"))))
    found.measure("box", np.array([x1 - x0, y1 - y0, area], np.float32))
