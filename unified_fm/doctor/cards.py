"""Records for a page: their picture, boxes and texts, also of those that no run would use."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import simplejpeg

from unified_fm.data import boxes, images
from unified_fm.data.skips import Skip
from unified_fm.doctor.reading import Reading
from unified_fm.report.report import picture

Card = dict[str, Any]
SHOWN = 8  # records of a reason
_LETTERS = 160  # of a text
_BYTES = 48  # of a file that is no picture
_BOXES = 12


def of(
    reading: Reading,
    records: Iterable[Mapping[str, Any]],
    shown: int = SHOWN,
    *,
    again: bool = True,
) -> list[Card]:
    """Cards of some records as check.json lists them, read once more unless `again` is False."""
    made = []
    for entry in list(records)[:shown]:
        card = {"name": _name(entry), "detail": entry.get("detail", ""), "image": None}
        card |= {"boxes": [], "texts": [], "bytes": ""}
        try:
            example = reading.source[entry["record"]] if again else {}
        except Exception:  # whatever a source makes of a record that is listed because of it
            example = {}
        made.append(card | _content(example, reading.loader.pipeline))
    return made


def _name(entry: Mapping[str, Any]) -> str:
    parts = [f"record {entry['record']:,}", entry.get("place", ""), entry.get("image", "")]
    return " · ".join(part for part in parts if part)


def _content(example: Mapping[str, Any], pipeline: Any) -> Card:
    made: Card = {"texts": _texts(example)}
    image = example.get("image")
    if image is None:
        return made
    try:
        opened = images.Picture(image)
    except Skip:
        return made | {"bytes": _begins(image)}
    try:
        pixels = opened.pixels(min_height=200, min_width=200)
    except Skip:
        pixels = _partly(opened)
        if pixels is None:
            return made | {"bytes": _begins(image)}
    made["image"] = picture(pixels)
    if isinstance(pipeline, boxes.BoxOptions):
        made["boxes"] = _boxes(example, opened, pipeline)
    return made


def _texts(example: Mapping[str, Any]) -> list[str]:
    found = []
    for field in ("text", "question"):
        value = example.get(field)
        found += value if isinstance(value, list | tuple) else [value]
    return [text[:_LETTERS] for text in found if isinstance(text, str)][:4]


def _partly(opened: images.Picture) -> np.ndarray | None:
    """What can be seen of a damaged JPEG."""
    if opened.format != "JPEG" or opened.mode not in ("RGB", "L"):
        return None
    try:
        return simplejpeg.decode_jpeg(
            opened.encoded, "RGB", min_height=200, min_width=200, strict=False
        )
    except Exception:  # too little of it is there
        return None


def _begins(image: Any) -> str:
    """The first bytes of what is no picture, as letters."""
    data = image if isinstance(image, bytes) else b""
    if isinstance(image, str):
        try:
            with open(image, "rb") as file:
                data = file.read(_BYTES)
        except (OSError, ValueError):
            return ""
    return "".join(chr(b) if 32 <= b < 127 else "·" for b in data[:_BYTES])


def _boxes(
    example: Mapping[str, Any], opened: images.Picture, pipeline: boxes.BoxOptions
) -> list[Card]:
    """Each box in percent of the picture, and whether it can be used."""
    made, found = [], example.get("regions")
    turned = opened.orientation if pipeline.exif == "stored" else 1
    for region in found if isinstance(found, list | tuple) else ():
        values = boxes.numbers(region.get("box")) if isinstance(region, dict) else None
        if values is None or not np.isfinite(values).all():
            continue
        corners, problem = boxes.parse(
            values,
            opened.height,
            opened.width,
            box_format=pipeline.box_format,
            orientation=turned,
        )
        if corners is None:  # where it would be, if it could be anywhere
            corners = boxes.corners_of(values, pipeline.box_format, opened.height, opened.width)
        made.append({**_percent(corners, opened), "bad": bool(problem), "problem": problem})
    return made[:_BOXES]


def _percent(corners: Any, opened: images.Picture) -> dict[str, float]:
    size = np.array([opened.width, opened.height] * 2, float)
    x0, y0, x1, y1 = np.clip(np.asarray(corners, float) / size, -1, 2) * 100
    x0, x1, y0, y1 = *sorted((x0, x1)), *sorted((y0, y1))
    rounded = {"x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0}
    return {name: round(float(value), 2) for name, value in rounded.items()}
