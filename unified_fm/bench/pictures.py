"""Made-up photographs with captions and boxes, of the size and the bytes that real ones have."""

import os

import cv2
import numpy as np
import simplejpeg

from unified_fm.data import records

HEIGHT, WIDTH = 375, 500  # as most of COCO and ImageNet have; every fourth stands upright
_DIFFERENT = 64  # pictures that are drawn; the records take turns with them
_QUALITY = 92  # with the noise below: 70 to 80 kB
_OCTAVES = 7
_CAPTIONS = (
    "a brown dog runs after a ball on wet grass while two children watch from a bench",
    "three red cars wait at a crossing in the rain, and a tram passes behind them",
    "an old man sells oranges at a market",
)


def write(stem: str | os.PathLike, count: int) -> str:
    """Writes so many records that every pipeline of the library can use.

    Returns:
        The source string that reads them.
    """
    drawn = [_jpeg(number) for number in range(min(count, _DIFFERENT))]
    records.write_shards(stem, (_record(number, drawn) for number in range(count)))
    return f"array_record:{os.fspath(stem)}"


def _record(number: int, drawn: list[bytes]) -> dict:
    boxes = [[40, 30, 120, 200], [10, 100, 300, 150], [200, 60, 90, 90]]
    regions = [{"box": box, "text": "a red car"} for box in boxes]
    text = _CAPTIONS[number % len(_CAPTIONS)]
    picture = drawn[number % len(drawn)]
    return {"id": number, "image": picture, "text": text, "regions": regions, "label": number % 10}


def _jpeg(number: int) -> bytes:
    """Smooth shapes with details of every size, as photographs have them, and a little noise."""
    rng = np.random.default_rng(number)
    height, width = (HEIGHT, WIDTH) if number % 4 else (WIDTH, HEIGHT)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(1, _OCTAVES + 1):
        coarse = rng.normal(size=(height * 2**octave // 256 + 2, width * 2**octave // 256 + 2, 3))
        size = (width, height)
        fine = cv2.resize(coarse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        picture += fine / octave**0.9
    picture += 0.12 * rng.normal(size=picture.shape).astype(np.float32)
    pixels = np.clip(128 + 40 * picture, 0, 255).astype(np.uint8)
    return simplejpeg.encode_jpeg(pixels, _QUALITY, "RGB", "420")
