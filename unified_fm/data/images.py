"""Images from bytes, safely, and their geometry: crops, resizing, flips. uint8 RGB throughout."""

import contextlib
import io
import os
import re
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, features

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
        self.orientation = 1
        if isinstance(data, np.ndarray):
            self._pixels = _from_array(data)
            self.format, self.mode = "array", "RGB"
            self.height, self.width = self._pixels.shape[:2]
            return
        if isinstance(data, Image.Image):
            with _skipping():
                self.format, self.mode = data.format, data.mode
                self._measure(data, max_pixels)
                self._pixels = _upright(_to_rgb(data), self._to_turn)
            return
        if not isinstance(data, bytes | bytearray | memoryview):
            data = _read(data)
        if not data:
            raise Skip("empty image")
        self._data = bytes(data)
        with _skipping(self._data):
            image = self._open()
            self.format, self.mode = image.format, image.mode
            self._measure(image, max_pixels)

    def _measure(self, image: Image.Image, max_pixels: int) -> None:
        self.width, self.height = image.size
        if self.width * self.height >= max_pixels:
            raise Skip(
                "oversized image",
                f"{self.height} x {self.width} pixels; max_pixels is {max_pixels:,}",
            )
        tag = image.getexif().get(_ORIENTATION, 1)
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
                if 0 < 2 * min_height <= self.height and 0 < 2 * min_width <= self.width:
                    if self._to_turn in TRANSPOSED:
                        min_height, min_width = min_width, min_height
                    smaller = {"min_height": min_height, "min_width": min_width}
                pixels = simplejpeg.decode_jpeg(self._data, "RGB", **smaller)
            else:
                # Opened again, so that Pillow's copy of the pixels goes when they are converted.
                pixels = _to_rgb(self._open())
        return _upright(pixels, self._to_turn)

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
    area = height * width * rng.uniform(*scale, 10)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), 10))
    widths = np.rint(np.sqrt(area * aspect)).astype(int)
    heights = np.rint(np.sqrt(area / aspect)).astype(int)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    if fits.any():
        h, w = int(heights[fits.argmax()]), int(widths[fits.argmax()])
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


def _read(path: str | os.PathLike) -> bytes:
    refuse_url(path)
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise Skip("oversized image", f"{path} has {size:,} bytes; at most {MAX_BYTES:,}")
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError, TypeError) as error:  # ValueError: a NUL byte in the path
        raise Skip("missing image", str(error)) from error
