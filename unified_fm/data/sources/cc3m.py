"""`cc3m:FILE[@IMAGES]`: captions with the addresses of their pictures, as CC3M and CC12M come.

    cc3m:Train_GCC-training.tsv@cc3m          cc3m:cc12m.tsv@cc12m

A line is a caption and an address with a tab between them (CC12M: the other way round; a first line
of names such as `caption` and `url` is left out). Nothing is fetched: the pictures are those that
img2dataset has put below IMAGES with `output_format=files`, `00012/000123456.jpg` for row 123456
(10,000 in each folder); where the second cell is no address it is a path below IMAGES. A part of
the addresses is dead: a picture that is not there is skipped and counted. `id` is the row, from 0.

What img2dataset has written with captions is also `folder:IMAGES`, and its tars `webdataset:`.
"""

import mmap
import re
from typing import Any

import numpy as np

from unified_fm import buckets
from unified_fm.data import official
from unified_fm.data.skips import Skip
from unified_fm.data.sources import base

_ADDRESS = re.compile(r"(https?|ftp)://\S+", re.IGNORECASE)
_NAMES = re.compile(r"(caption|text|url|image)\t(caption|text|url|image)\s*", re.IGNORECASE)
_BLOCK = 1 << 24
_IN_A_FOLDER = 10_000  # of img2dataset


class Source(base.Source):
    """Random access to the rows; the file stays on the disk, 8 bytes a row are in memory."""

    def __init__(self, argument: str):
        """Finds the lines.

        Raises:
            ValueError: an empty file.
            FileNotFoundError: no such file.
        """
        parts = official.argument(argument, "cc3m")
        self._file = parts.file
        self._images = official.Images(parts.images, parts.file)
        if buckets.holds(parts.file):
            self._data = buckets.read(parts.file)
        else:
            with open(parts.file, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = [np.flatnonzero(self._block(k) == ord("\n")) + k for k in self._blocks()]
        ends = np.concatenate(found)
        if not len(ends) or ends[-1] != len(self._data) - 1:
            ends = np.append(ends, len(self._data))  # the last line has no end
        self._starts = np.concatenate([[0], ends + 1])  # i64[rows + 1]
        self._named = int(_NAMES.fullmatch(self._line(0)) is not None)

    def __len__(self) -> int:
        return len(self._starts) - 1 - self._named

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a line of other cells, or a picture that is not there."""
        cells = [cell.strip() for cell in self._line(index + self._named).split("\t")]
        if len(cells) != 2:
            raise Skip("not a caption and an address", f"{len(cells)} cells with tabs between")
        text, address = reversed(cells) if _ADDRESS.fullmatch(cells[0]) else cells
        if _ADDRESS.fullmatch(address):
            folder = f"{index // _IN_A_FOLDER:05d}"
            address = f"{folder}/{folder}{index % _IN_A_FOLDER:04d}.jpg"
        return {"id": index, "image": self._images.find(address), "text": text}

    def place(self, index: int) -> str:
        """The file and the line, from 1."""
        return f"{self._file}, line {index + self._named + 1}"

    def _line(self, number: int) -> str:
        start, end = self._starts[number : number + 2].tolist()
        return self._data[start:end].decode("utf-8", errors="replace").rstrip("\r\n")

    def _blocks(self) -> range:
        return range(0, len(self._data), _BLOCK)

    def _block(self, start: int) -> np.ndarray:
        return np.frombuffer(self._data[start : start + _BLOCK], np.uint8)
