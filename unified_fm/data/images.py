"""Images from bytes, safely, and their geometry: crops, resizing, flips. uint8 RGB throughout."""

import contextlib
import io
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, features

from unified_fm import buckets
from unified_fm.data import jpeg
from unified_fm.data.skips import Skip

# A format whose decoder runs programs or reads other files (EPS, WMF, ...) is not in the list.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
if "avif" in features.get_supported_modules():  # Pillow is built with or without it
    _FORMATS = (*_FORMATS, "AVIF")
_MANY = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # an animation, or pages
_URL = re.compile(r"(https?|ftp)://", re.IGNORECASE)
MAX_PIXELS = 64_000_000  # an image with as many pixels or more is refused from its header
MOST_PIXELS = 2 * 89_478_485  # no setting goes beyond what Pillow itself opens
# What decoding takes at most, result included: 3 to 9 for JPEG, 8 for PNG, 17 for WebP. A thread
# decodes one image at a time, so a loader with 16 threads needs 20 GB if all meet the largest.
BYTES_PER_PIXEL = 20
MAX_BYTES = 100_000_000
_ORIENTATION = 0x0112  # the EXIF tag
# How each EXIF orientation becomes upright: transpose, then flip up and down, then left and right.
TRANSPOSED, UPSIDE_DOWN, MIRRORED = (5, 6, 7, 8), (3, 4, 7, 8), (2, 3, 6, 7)
_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))  # of a random crop
_STRIP = 256  # rows of an image that are converted at once


class Picture:
    """An image whose header was read and judged, and whose pixels are decoded when asked for.

    Attributes:
        height, width: in pixels, upright (after EXIF rotation).
        orientation: 1 to 8, how EXIF says that the stored pixels are to be turned; 1: not at all.
        format, mode: as Pillow names them ("JPEG", "CMYK"); "array" and "RGB" of an array.
    """

    def __init__(
        self,
        data: bytes | np.ndarray | Image.Image | str | os.PathLike,
        *,
        max_pixels: int = MAX_PIXELS,
    ):
        """Reads the header.

        Args:
            data: encoded bytes, a path, an array u8[H W], u8[H W 1], u8[H W 3] or u8[H W 4], or an
                image of Pillow, which is treated as its file would be.
            max_pixels: an image with as many pixels or more is refused before it is decoded.
                Decoding takes `BYTES_PER_PIXEL` bytes for each pixel at most.

        Raises:
            Skip: missing, empty, too large, or not an image.
        """
        self._pixels: np.ndarray | None = None
        self._data = b""
        self._jpeg: jpeg.Header | None = None
        self.orientation = 1
        if isinstance(data, np.ndarray):
            self._pixels = _from_array(data)
            self.format, self.mode = "array", "RGB"
            self.height, self.width = self._pixels.shape[:2]
            return
        if isinstance(data, Image.Image):
            with _skipping():
                self.format, self.mode = data.format, data.mode
                self._measure(*data.size, max_pixels, data.getexif)
                self._pixels = _upright(_to_rgb(data), self._to_turn)
            return
        if not isinstance(data, bytes | bytearray | memoryview):
            data = read(data)
        if not data:
            raise Skip("empty image")
        self._data = bytes(data)
        with _skipping(self._data):
            if (found := jpeg.read_header(self._data)) is not None:  # a tenth of Pillow's time
                self.format, self.mode, self._jpeg = "JPEG", "RGB", found
                self._measure(found.width, found.height, max_pixels, lambda: _exif(found.exif))
                return
            image = self._open()
            self.format, self.mode = image.format, image.mode
            self._measure(*image.size, max_pixels, image.getexif)

    def _measure(
        self, width: int, height: int, max_pixels: int, exif: Callable[[], Mapping[int, Any]]
    ) -> None:
        self.width, self.height = width, height
        if self.width * self.height >= max_pixels:
            raise Skip(
                "oversized image",
                f"{self.height} x {self.width} pixels; max_pixels is {max_pixels:,}",
            )
        tag = exif().get(_ORIENTATION, 1)  # Pillow decodes a PNG for it
        self.orientation = tag if tag in range(1, 9) else 1
        # Pillow turns a TIFF itself, and says the size that it then has.
        self._to_turn = 1 if self.format == "TIFF" else self.orientation
        if self._to_turn in TRANSPOSED:
            self.height, self.width = self.width, self.height

    def pixels(self, *, min_height: int = 0, min_width: int = 0) -> np.ndarray:
        """Decodes to u8[H W 3].

        EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled to 8 bit,
        CMYK is converted, and of an animation the first frame is taken.

        Args:
            min_height, min_width: where given, a JPEG of twice this size or more is decoded
                smaller, not below it: that costs less.

        Raises:
            Skip: truncated or damaged.
        """
        if self._pixels is not None:
            return self._pixels
        with _skipping():
            if self.format in ("JPEG", "MPO") and self.mode in ("RGB", "L"):
                smaller: dict[str, Any] = {}
                if self._shrinks(min_height, min_width):
                    if self._to_turn in TRANSPOSED:
                        min_height, min_width = min_width, min_height
                    smaller = {"min_height": min_height, "min_width": min_width}
                pixels = simplejpeg.decode_jpeg(self._data, "RGB", **smaller)
            else:
                # Opened again, so that Pillow's copy of the pixels goes when they are converted.
                pixels = _to_rgb(self._open())
        return _upright(pixels, self._to_turn)

    def cut(
        self, box: tuple[int, int, int, int], height: int, width: int, *, whole: bool = False
    ) -> np.ndarray:
        """A part (top, left, height, width) of the upright image, resized to u8[height width 3].

        No more of a JPEG is decoded than it takes: a part that shrinks by two or more is decoded
        smaller, and of a sequential one no rows below it, unless `whole` is set. That data end too
        early is always seen. Other damage often shows only in that what is coded does not end where
        the data do: then it takes all rows to see it.

        Raises:
            Skip: truncated or damaged.
        """
        top, left, rows, columns = box
        least = {
            "min_height": math.ceil(height * self.height / rows),
            "min_width": math.ceil(width * self.width / columns),
        }
        if self._jpeg is not None and self._to_turn == 1 and not self._shrinks(**least):
            with _skipping():
                last = self.height if whole else top + rows
                pixels = jpeg.decode_rows(self._data, self._jpeg, last)
            part = resize(pixels[top : top + rows, left : left + columns], height, width)
            return part.copy() if np.may_share_memory(part, pixels) else part
        pixels = self.pixels(**least)
        # A JPEG may have been decoded smaller than its header says.
        y, x = pixels.shape[0] / self.height, pixels.shape[1] / self.width
        down = slice(int(top * y), max(math.ceil((top + rows) * y), int(top * y) + 1))
        across = slice(int(left * x), max(math.ceil((left + columns) * x), int(left * x) + 1))
        return resize(pixels[down, across], height, width)

    def _shrinks(self, min_height: int, min_width: int) -> bool:
        """Whether twice these sizes or more are there."""
        return 0 < 2 * min_height <= self.height and 0 < 2 * min_width <= self.width

    @property
    def encoded(self) -> bytes:
        """The bytes that it was read from; none of an array or of Pillow's image."""
        return self._data

    def holds_several(self) -> bool:
        """Whether the file is an animation or has pages, of which only the first is decoded.

        Raises:
            Skip: what comes behind the first is damaged.
        """
        if not self._data or self.format not in _MANY:
            return False
        with _skipping():
            try:
                self._open().seek(1)
            except EOFError:
                return False
        return True

    def _open(self) -> Image.Image:
        return Image.open(io.BytesIO(self._data), formats=_FORMATS)


def read(path: str | os.PathLike) -> bytes:
    """The bytes of a file with an image.

    Raises:
        Skip: missing, larger than `MAX_BYTES`, or a URL.
        OSError: a bucket gives no answer; that is no fault of the record.
    """
    refuse_url(path)
    if buckets.holds(path):
        return _read_from_bucket(os.fspath(path))
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise Skip("oversized image", f"{path} has {size:,} bytes; at most {MAX_BYTES:,}")
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError, TypeError) as error:  # ValueError: a NUL byte in the path
        raise Skip("missing image", str(error)) from error


def _read_from_bucket(path: str) -> bytes:
    try:
        found = buckets.read(path, 0, MAX_BYTES + 1)  # one request, and none for the size before
    except FileNotFoundError as error:
        raise Skip("missing image", str(error)) from error
    if len(found) > MAX_BYTES:
        raise Skip("oversized image", f"{path} has more than {MAX_BYTES:,} bytes")
    return found


def decode(data: bytes | np.ndarray | str | os.PathLike) -> np.ndarray:
    """Decodes one image of any usual kind to u8[H W 3], as `Picture` does.

    Raises:
        Skip: missing, empty, truncated, too large, or not an image.
    """
    return Picture(data).pixels()


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize, aspect ratio not kept. A shrink by 2 or more is averaged first.

    OpenCV's bicubic looks at 4 x 4 pixels however much it shrinks, which alone would alias.
    """
    factor = min(image.shape[0] // height, image.shape[1] // width)
    if factor >= 2:
        size = (-(-image.shape[1] // factor), -(-image.shape[0] // factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def random_crop_box(
    height: int, width: int, rng: np.random.Generator, *, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """The crop of RandomResizedCrop: (top, left, height, width).

    Area uniform in `scale` of the image, aspect ratio log-uniform in 3/4 .. 4/3; after ten misses
    the largest central crop within these ratios.
    """
    drawn = rng.random(20).tolist()
    (low, high), (log_low, log_high) = scale, _LOG_ASPECT
    for area, aspect in zip(drawn[:10], drawn[10:], strict=True):
        pixels = height * width * (low + (high - low) * area)
        ratio = math.exp(log_low + (log_high - log_low) * aspect)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w = min(width, max(1, round(height * 4 / 3)))
    h = min(height, max(1, round(width * 4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


def flip(image: np.ndarray) -> np.ndarray:
    """Mirrors left and right."""
    return cv2.flip(image, 1)  # NumPy's reversed copy takes five times as long


def refuse_url(path: Any) -> None:
    """Says of a URL that it is one, not that a file of this name is missing.

    Raises:
        Skip: it is a URL.
    """
    if isinstance(path, str) and _URL.match(path):
        raise Skip("image is a URL", f"{path[:200]}; nothing is downloaded: img2dataset does that")


@contextlib.contextmanager
def _skipping(data: bytes = b""):
    """Turns what decoders raise into `Skip` with a reason; `data` says what else it may be."""
    try:
        yield
    except Skip:
        raise
    except UnidentifiedImageError as error:
        raise Skip("not an image", _looks_like(data)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Skip("oversized image", str(error)) from error
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ... by format
        raise Skip("truncated or damaged image", str(error)) from error


def _exif(data: bytes) -> Mapping[int, Any]:
    if not data:
        return {}
    found = Image.Exif()
    found.load(data)
    return found


# How files begin that stand where an image should, in their first bytes.
_KINDS = (
    (rb"\s*(<!doctype html|<html)", "an HTML page"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", "an SVG drawing; convert it"),
    (rb"\s*[{\[]", "JSON"),
    (rb"version https://git-lfs", "a Git LFS pointer: `git lfs pull` brings the file"),
    (rb"%PDF", "a PDF"),
    (rb"%!PS", "PostScript; convert it"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL; convert it"),
    (rb"....ftyp(heic|heix|hevc|heim|mif1|msf1)", "HEIC; convert it"),
    (rb"....ftypavi[fs]", "AVIF, which this Pillow is built without"),
    (rb"....ftyp|\x1aE\xdf\xa3", "a film"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive"),
)


def _looks_like(data: bytes) -> str:
    """What bytes are that are no image, as far as their beginning tells."""
    for pattern, kind in _KINDS:
        if re.match(pattern, data[:400], re.DOTALL | re.IGNORECASE):
            return f"it is {kind}"
    return f"of no kind that is known; it begins with {data[:12]!r}"


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Any Pillow mode to u8[H W 3], strip by strip: a whole copy in between could be gigabytes."""
    if image.mode == "F":
        raise Skip("floating-point image", "pixel values have no known range")
    image.load()
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        pixels[top:bottom] = _strip_to_rgb(image.crop((0, top, width, bottom)))
    return pixels


def _strip_to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey
        values = np.asarray(image, np.int64)
        return np.clip(values >> 8, 0, 255).astype(np.uint8)[..., None]
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, image)
    return np.asarray(image.convert("RGB"))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the EXIF orientation, 1 to 8."""
    if orientation in TRANSPOSED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in UPSIDE_DOWN:  # after the transpose for 7 and 8
        pixels = pixels[::-1]
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _from_array(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8:
        raise Skip("image array of a wrong type", f"{image.dtype}; uint8 is needed")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise Skip("image array of a wrong shape", f"{image.shape}; [H W 3] is needed")
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 4:
        return _to_rgb(Image.fromarray(image, "RGBA"))
    return image
