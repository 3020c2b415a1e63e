"""An example as a shard holds it: images as encoded bytes, boxes in pixels of those images.

Every image is decoded once here, so that a damaged one is skipped now and not in each epoch. Its
bytes are kept as they are, but for two kinds: one whose shorter side is above `resize` is made that
small (averaged and bicubic, `images.resize`) and becomes a JPEG (4:4:4); an
array becomes a PNG. A JPEG made here has no EXIF and no transparency: it is as a viewer shows it.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np
import simplejpeg

from unified_fm.data import boxes, images
from unified_fm.data.skips import Parts, Skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packing(boxes.BoxOptions):
    """How examples are packed, and how the boxes are written in what is read.

    What is written has its boxes as x, y, width, height in pixels of the upright image.

    Attributes:
        resize: longest that the shorter side of an image may be, in pixels; 0: no image is resized.
        quality: of the JPEG that a resized image becomes, 1 to 100.
    """

    resize: int = 0
    quality: int = 95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize < 0:
            raise ValueError(f"resize is {self.resize}; it is a side in pixels, or 0 for none")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; that of a JPEG is from 1 to 100")


def pack(example: dict[str, Any], packing: Packing, parts: Parts) -> dict[str, Any]:
    """The example with its images as bytes and its boxes in their pixels; all else as it is.

    Args:
        example: of a source, see `data.sources.base`.
        packing: what to do.
        parts: counts the regions; those whose box is of no use are dropped.

    Raises:
        Skip: an image that cannot be read, or that is no image.
    """
    packed = dict(example)
    picture, scale = None, (1.0, 1.0)
    if example.get("image") is not None:
        picture = images.Picture(example["image"])
        packed["image"], scale = _encoded(picture, packing)
    if isinstance(example.get("images"), list | tuple):
        each = [_encoded(images.Picture(image), packing)[0] for image in example["images"]]
        packed["images"] = each
    if picture is None:
        return packed
    if isinstance(example.get("regions"), list | tuple):
        found = [_region(each, picture, scale, packing, parts) for each in example["regions"]]
        packed["regions"] = [region for region in found if region is not None]
    if {"box", "size"} <= example.keys():  # as `refcoco:` has them, see `data.sources.base`
        corners, problem = boxes.parse(example["box"], picture.height, picture.width)
        if corners is None:
            raise Skip("no usable box", problem)
        if scale != (1.0, 1.0):
            packed["box"] = _scaled(corners, scale)
            packed["size"] = [
                round(side * factor) for side, factor in zip(example["size"], scale, strict=True)
            ]
    return packed


def _encoded(picture: images.Picture, packing: Packing) -> tuple[bytes, tuple[float, float]]:
    """The bytes of an image, and by how much its width and its height have changed."""
    height, width = picture.height, picture.width
    shorter = min(height, width)
    if not packing.resize or shorter <= packing.resize:
        pixels = picture.pixels()
        return picture.encoded or _png(pixels), (1.0, 1.0)
    # The shorter side is exact; the longer one is rounded, and 1 at least.
    new_height, new_width = (max(1, round(n * packing.resize / shorter)) for n in (height, width))
    pixels = picture.pixels(min_height=new_height, min_width=new_width)
    pixels = images.resize(pixels, new_height, new_width)
    data = simplejpeg.encode_jpeg(pixels, packing.quality, "RGB", "444")
    return data, (new_width / width, new_height / height)


def _png(pixels: np.ndarray) -> bytes:
    """Lossless: an array is drawn or already small."""
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def _region(
    region: Any,
    picture: images.Picture,
    scale: tuple[float, float],
    packing: Packing,
    parts: Parts,
) -> dict[str, Any] | None:
    parts.seen += 1
    if not isinstance(region, dict):
        parts.drop("region of a wrong type")
        return None
    corners, problem = packing.read_box(region.get("box"), picture, parts)
    if corners is None:
        parts.drop(problem)
        return None
    kept = {name: value for name, value in region.items() if value is not None}
    as_written = (packing.box_format, packing.exif) == ("xywh", "upright")
    if scale == (1.0, 1.0) and as_written:
        return kept
    box = _scaled(corners, scale)
    if min(box[2:]) < 1:
        parts.drop("box below one pixel")
        return None
    return kept | {"box": box}


def _scaled(corners: np.ndarray, scale: tuple[float, float]) -> list[float]:
    """Corners x0, y0, x1, y1 as x, y, width, height in the new pixels, to a hundredth."""
    x0, y0, x1, y1 = (corners * [*scale, *scale]).tolist()
    return [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
