"""Arrays of a teacher's cache that lie in a bucket: rows are read when they are wanted."""

import math
from typing import Any

import numpy as np

from unified_fm import buckets

_HEADER = 1 << 12  # bytes; NumPy's headers take 128


class BucketArray:
    """A `.npy` file in a bucket; rows that follow each other are one request.

    Attributes:
        shape: of the whole array.
    """

    def __init__(self, path: Any):
        """Reads the header.

        Raises:
            ValueError: it is no array of plain numbers by rows, or is cut off.
            OSError: it is not there, or cannot be read.
        """
        self._path = path
        with buckets.open_binary(path, ahead=_HEADER) as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format
            read = header.read_array_header_1_0 if version[0] == 1 else header.read_array_header_2_0
            self.shape, by_columns, self._dtype = read(stream)
            self._start = stream.tell()
        if by_columns or self._dtype.hasobject or not self.shape:
            raise ValueError(f"{path} holds no numbers by rows")
        self._row = math.prod(self.shape[1:]) * self._dtype.itemsize
        size, wanted = buckets.about(path).size, self._start + self.shape[0] * self._row
        if size != wanted:
            raise ValueError(f"{path} has {size:,} bytes; {wanted:,} are needed")

    def __getitem__(self, slots: np.ndarray) -> np.ndarray:
        """The rows of slots i64[n], as of an array in memory.

        Raises:
            IndexError: there are no such rows.
            OSError: they cannot be read.
        """
        if len(slots) and not 0 <= slots.min() <= slots.max() < self.shape[0]:
            raise IndexError(f"{self._path} has {self.shape[0]:,} rows, not row {slots.max():,}")
        runs = np.split(slots, np.flatnonzero(np.diff(slots) != 1) + 1)
        parts = [self._read(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
        return np.concatenate([np.empty((0, *self.shape[1:]), self._dtype), *parts])

    def _read(self, first: int, end: int) -> np.ndarray:
        start = self._start + first * self._row
        raw = buckets.read(self._path, start, start + (end - first) * self._row)
        if len(raw) != (end - first) * self._row:
            raise OSError(f"{self._path} was cut off: it ends before row {end - 1:,}")
        return np.frombuffer(raw, self._dtype).reshape(end - first, *self.shape[1:])
