"""Pictures by their headers and their looks: sizes, kinds, and hashes by which copies are found.

Two hashes of what is seen, both of 64 bits and of the picture in grey: dHash says of 8 x 8 places
whether the next one at the right is brighter (of 9 x 8 means), aHash whether a place is brighter
than the mean of all (of 8 x 8 means). They hardly change with size, quality and format.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from unified_fm.data import fields, images
from unified_fm.data.pipelines.base import ImageOptions
from unified_fm.data.skips import Skip
from unified_fm.doctor.findings import Findings

_SIDE = 36  # pixels that a JPEG keeps at least when it is decoded for its hashes
_LONGEST = 4096  # characters of a path
# What a name may be that holds no picture, whatever its value ends in.
_READ = ("id", "text", "label", "regions", "question", "answers", "sentences", "objects", "row")


def look(example: dict[str, Any], pipeline: Any, index: int, found: Findings) -> bytes:
    """Measures every picture of an example that can be opened; gives hashes of their contents."""
    limit = images.MAX_PIXELS
    if isinstance(pipeline, ImageOptions):
        limit = pipeline.max_pixels
    seen = b""
    for image in _of(example):
        try:
            picture = images.Picture(image, max_pixels=limit)
        except Skip:
            continue  # the pipeline has counted it, if it wants pictures at all
        _header(picture, found)
        content = digest(picture.encoded or picture.pixels().tobytes())
        seen += content.tobytes()
        try:
            _hashes(picture, content, index, found)
        except Skip:
            continue
    return seen


def look_elsewhere(example: dict[str, Any], found: Findings) -> None:
    """Counts the fields that hold a picture under another name, where an example has none."""
    if any(True for _ in _of(example)):
        return
    there = [name for name in example if name not in _READ and _may_be(example[name])]
    found.add("records", "with pictures elsewhere", bool(there))
    for name in there:
        found.add("pictures elsewhere", name)


def digest(content: bytes) -> np.ndarray:
    """u64[2]: bytes that are the same have the same, and no others that will ever be met."""
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint64)


def a_hash(grey: np.ndarray) -> np.ndarray:
    """u64[n]: aHash of 8 x 8 means in grey, u8[n 64]."""
    return _packed(grey > grey.mean(1, keepdims=True))


def d_hash(grey: np.ndarray) -> np.ndarray:
    """u64[n]: dHash of 9 x 8 means in grey, u8[n 8 9]."""
    return _packed((grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(grey), 64))


def _of(example: dict[str, Any]) -> Iterator[Any]:
    if example.get("image") is not None:
        yield example["image"]
    several = example.get("images")
    if isinstance(several, list | tuple):
        yield from several


def _may_be(value: Any) -> bool:
    """Whether a value looks like a picture: by the ending of a path or an address, or its bytes."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, dict) and set(value) <= {"bytes", "path"}:  # as `datasets` keeps them
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        path = value.partition("?")[0].lower()
        return len(path) < _LONGEST and path.endswith(fields.IMAGE_ENDINGS)
    if isinstance(value, bytes):
        try:
            return bool(images.Picture(value, max_pixels=images.MOST_PIXELS).height)
        except Skip:
            return False
    return False


def takes(pipeline: Any) -> bool:
    """Whether a pipeline makes anything of pictures."""
    # `classify` has the options of both, and says which it uses.
    return isinstance(pipeline, ImageOptions) and vars(pipeline).get("inputs", "image") == "image"


def _header(picture: images.Picture, found: Findings) -> None:
    found.add("pictures", "opened")
    found.add("format", str(picture.format))
    found.add("mode", str(picture.mode))
    if picture.orientation != 1:
        found.add("odd", "turned by EXIF")
    if picture.mode in ("P", "PA", "LA", "RGBA", "La", "RGBa"):
        found.add("odd", "with a palette or transparent: laid over white")
    if picture.mode.startswith("I"):
        found.add("odd", "of 16 bits or more a pixel: the high 8 are taken")
    if picture.mode in ("CMYK", "YCCK"):
        found.add("odd", "in CMYK: converted")
    found.measure("size", np.array([picture.height, picture.width], np.int32))
    try:
        if picture.holds_several():
            found.add("odd", "animated, or with pages: the first is taken")
    except Skip:
        found.add("odd", "animated, or with pages: damaged behind the first")


def _hashes(picture: images.Picture, content: np.ndarray, index: int, found: Findings) -> None:
    pixels = picture.pixels(min_height=_SIDE, min_width=_SIDE)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    nine = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    eight = cv2.resize(grey, (8, 8), interpolation=cv2.INTER_AREA)
    found.measure("picture_content", content)
    found.measure("picture_record", index)
    found.measure("picture_dhash", d_hash(nine[None])[0])
    found.measure("picture_grey", eight.reshape(64))


def _packed(bits: np.ndarray) -> np.ndarray:
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
