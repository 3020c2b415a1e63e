"""Data that Debian packages carry, wherever those were installed or unpacked.

    apt-get install dataset-fashion-mnist             the files lie below /
    apt-get download dataset-fashion-mnist            no root needed: unpacked below any folder,
    dpkg-deb -x dataset-fashion-mnist_*.deb FOLDER    which --debian=FOLDER names, or the variable
                                                      UNIFIED_FM_DEBIAN

As of `packages`: a file with another content than the recipe was written for is refused.
"""

import dataclasses
import gzip
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unified_fm.demo.packages import MissingPackage

VARIABLE = "UNIFIED_FM_DEBIAN"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package; `files` has the sha256 of those that are read."""

    name: str
    version: str
    licence: str
    folder: str  # of the files, below the root
    files: Mapping[str, str]


_FASHION = Package(
    name="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    licence="MIT",
    folder="usr/share/datasets/fashion-mnist",
    files={
        "train-images-idx3-ubyte.gz": (
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
        ),
        "train-labels-idx1-ubyte.gz": (
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
        ),
    },
)
_NOTO = Package(
    name="fonts-noto-color-emoji",
    version="2.042-0+deb12u1",
    licence="OFL-1.1 and Apache-2.0",
    folder="usr/share/fonts/truetype/noto",
    files={
        "NotoColorEmoji.ttf": "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
    },
)
PACKAGES = {package.name: package for package in (_FASHION, _NOTO)}
_NOTO_SIZE = 109  # the only size of its bitmaps, which are 136 x 128 pixels


def root(given: str | os.PathLike | None = None) -> Path:
    """The folder below which packages were unpacked: given, else UNIFIED_FM_DEBIAN, else /."""
    return Path(given or os.environ.get(VARIABLE) or "/")


def is_there(name: str, below: Path) -> bool:
    """Whether the package has its files there, whatever is in them."""
    package = PACKAGES[name]
    return all((below / package.folder / file).is_file() for file in package.files)


def folder(name: str, below: Path) -> Path:
    """Where the package's files lie, after checking them.

    Raises:
        MissingPackage: a file is not there, or is another.
    """
    package = PACKAGES[name]
    found = below / package.folder
    for file, expected in package.files.items():
        if not (found / file).is_file():
            problem = f"is not there: no file {found / file}"
        elif hashlib.sha256((found / file).read_bytes()).hexdigest() != expected:
            problem = f"has another {file} than version {package.version}, which this was made for"
        else:
            continue
        raise MissingPackage(
            f"The Debian package {name} {problem}. Install it, or unpack it without root: `apt-get"
            f" download {name} && dpkg-deb -x {name}_*.deb FOLDER`, and say --debian=FOLDER or set"
            f" {VARIABLE}."
        )
    return found


def fashion(split: str, below: Path) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST: u8[N 28 28] white on black, labels u8[N]; of "train" (60,000) or "test"."""
    prefix = {"train": "train", "test": "t10k"}[split]
    there = folder(_FASHION.name, below)
    images = _idx(there / f"{prefix}-images-idx3-ubyte.gz")
    return images, _idx(there / f"{prefix}-labels-idx1-ubyte.gz")


class Noto:
    """Noto's emoji, as bitmaps of the font.

    Raises:
        MissingPackage: as `folder`.
    """

    def __init__(self, below: Path):
        font = folder(_NOTO.name, below) / "NotoColorEmoji.ttf"
        self._font = ImageFont.truetype(str(font), _NOTO_SIZE)

    def draw(self, unified: str, side: int) -> np.ndarray | None:
        """An emoji on nothing, u8[side side 4], or None where the font has none.

        `unified` is its code as in emoji.json, "1F41F" or "2764-FE0F".
        """
        text = "".join(chr(int(code, 16)) for code in unified.split("-"))
        left, top, right, bottom = self._font.getbbox(text)
        if right - left > 1.5 * _NOTO_SIZE:  # a sequence that it draws as its parts
            return None
        width, height = round(right - left), round(bottom - top)
        if min(width, height) < 1:
            return None
        canvas = Image.new("RGBA", (max(width, height), max(width, height)))
        corner = (canvas.width - width) / 2 - left, (canvas.height - height) / 2 - top
        ImageDraw.Draw(canvas).text(corner, text, font=self._font, embedded_color=True)
        if not np.asarray(canvas)[..., 3].any():
            return None
        return np.asarray(canvas.resize((side, side), Image.Resampling.LANCZOS))


def _idx(path: Path) -> np.ndarray:
    """The bytes of an idx file: 0, 0, the type (8: bytes), how many dimensions, their sizes."""
    with gzip.open(path, "rb") as file:
        raw = file.read()
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
