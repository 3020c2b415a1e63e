"""JPEG files by simplejpeg: their header, and no more of their rows than are wanted."""

import re
import threading
from typing import NamedTuple

import numpy as np
import simplejpeg

_EXIF = b"Exif\0\0"
_SEQUENTIAL, _SCAN, _APP1, _RESTARTS = (0xC0, 0xC1), 0xDA, 0xE1, 0xDD  # markers
_OTHERS = {*range(0xC2, 0xD0), 0xDB, *range(0xE0, 0xF0), 0xFE}  # frames, tables, applications' own
_BLOCK = 8  # rows
_WORTH = 0.95  # of all rows: with more of them the rest costs less than it takes to leave it out
_MOST_KEPT = 16_000_000  # bytes that a thread keeps to decode into, at most
# All that libjpeg has to say of an image that ends before its data do, if the rest is whole.
_MORE = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")


class _Scratch(threading.local):
    """Memory of one thread."""

    def __init__(self):
        self.kept = np.empty(0, np.uint8)


_SCRATCHES = _Scratch()


class Header(NamedTuple):
    """What a JPEG says of itself.

    Attributes:
        height, width: of the stored pixels.
        exif: its EXIF segment; b"" where there is none.
        frame: where the segment with its height is, if the first rows can be decoded alone; else 0.
        unit: how many rows are coded together.
    """

    height: int
    width: int
    exif: bytes
    frame: int
    unit: int


def read_header(data: bytes) -> Header | None:
    """The header of a usual JPEG: grey or colour, 8 bit, nothing but EXIF that may turn it.

    None: it is something else, or damaged; Pillow can say what.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        return (
            _judged(data, int(height), int(width)) if colours in ("YCbCr", "RGB", "Gray") else None
        )
    except (ValueError, IndexError):
        return None


def _judged(data: bytes, height: int, width: int) -> Header | None:
    """Walks through the segments in front of the pixels."""
    exif, frame, unit, place = b"", 0, _BLOCK, 2
    restarts = False
    while (marker := data[place + 1]) != _SCAN:
        end = place + 2 + (data[place + 2] << 8 | data[place + 3])
        if marker in _SEQUENTIAL:
            frame = place
            unit = _BLOCK * max(factors & 15 for factors in data[place + 11 : end : 3])
        elif marker == _APP1:  # a second one, or XMP, may turn the image, too
            if exif or not data.startswith(_EXIF, place + 4):
                return None
            exif = data[place + 4 : end]
        elif marker == _RESTARTS:
            restarts = True
        elif marker not in _OTHERS:
            return None
        if data[place] != 0xFF or end < place + 4:
            return None
        place = end
    # A component that is not in the first scan lies behind all rows of the others.
    alone = frame and not restarts and data[place + 4] == data[frame + 9]
    return Header(height, width, exif, frame if alone else 0, unit)


def decode_rows(data: bytes, header: Header, rows: int) -> np.ndarray:
    """At least the first `rows` rows, as they are in the whole image: u8[>= rows W 3].

    What is returned lies in memory of this thread, until the next call in it. Data that end too
    early are found in any case; other damage surely only where all rows are decoded.

    Raises:
        ValueError: truncated or damaged.
    """
    # The last row that is decoded lacks its lower neighbour, so there is one more.
    height = (rows // header.unit + 1) * header.unit
    if header.frame and height <= header.height * _WORTH:
        shortened = bytearray(data)
        shortened[header.frame + 5 : header.frame + 7] = height.to_bytes(2, "big")
        out = _scratch(height, header.width)
        try:
            return simplejpeg.decode_jpeg(shortened, "RGB", buffer=out)
        except ValueError as error:
            if _MORE.fullmatch(str(error)):
                return out
    return simplejpeg.decode_jpeg(data, "RGB", buffer=_scratch(header.height, header.width))


def _scratch(height: int, width: int) -> np.ndarray:
    """u8[height width 3]; memory that was used before costs no page faults."""
    size = height * width * 3
    if size > _MOST_KEPT:
        return np.empty((height, width, 3), np.uint8)
    if len(_SCRATCHES.kept) < size:
        _SCRATCHES.kept = np.empty(size, np.uint8)
    return _SCRATCHES.kept[:size].reshape(height, width, 3)
