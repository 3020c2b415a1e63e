"""Arrays that lie in a file and are read one at a time.

Every reader of this package first checks all of a file's declarations against the file's size and
then hands out `LazyArrays`: reading one array takes the memory of that array and no more.
"""

import dataclasses
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from unified_fm.convert.errors import CheckpointFormatError

# Our names of element types -> how numpy reads them. bfloat16 is widened to float32 by hand.
DTYPES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "|u1",
}
_RESULTS = {"bfloat16": "<f4", "bool": "bool"}  # what comes back in another type
_MAX_DIMENSIONS = 16
_MAX_NAME = 1024
_PIECE = 2**15


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return np.dtype(DTYPES[dtype]).itemsize


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A range of bytes of the file, with the CRC-32 that the file declares for it, if any.

    The checksum may cover bytes in front of the block too (the header of an `.npy` entry): `before`
    is their CRC-32.
    """

    start: int
    size: int
    crc: int | None = None
    before: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Where an array lies: elements from `offset` on in a block, at `strides` (in elements)."""

    block: Block
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0


def checked_entry(
    name: str, block: Block, dtype: str, shape: tuple, strides: tuple | None = None, offset: int = 0
) -> Entry:
    """An entry whose every element lies inside its block.

    Args:
        name: for error messages.
        block: the bytes that hold it.
        dtype: a key of `DTYPES`.
        shape: dimensions.
        strides: in elements; None means C order.
        offset: in elements.

    Raises:
        CheckpointFormatError: dimensions are not small integers, elements lie outside, or the
            name is no line of text.
    """
    if len(name) > _MAX_NAME or not name.isprintable():
        raise CheckpointFormatError(f"an array named {_short(name)}: refused")
    strides = c_strides(shape) if strides is None and _small(shape) else strides
    fits = _small(shape) and _small(strides) and _small((offset,)) and _indexable(shape)
    if not fits:
        raise CheckpointFormatError(f"{_short(name)}: shape, strides or offset are not plausible")
    if len(shape) != len(strides):
        raise CheckpointFormatError(f"{_short(name)}: {len(shape)} sizes, {len(strides)} strides")
    have = block.size // itemsize(dtype)
    count = math.prod(shape)
    last = offset + _span(shape, strides) if count else 0
    # More elements than the block holds would be a repeated view: it could ask for any memory.
    if count > have or (count and last >= have) or offset > have:
        raise CheckpointFormatError(
            f"{_short(name)}: {dtype}{list(shape)} at element {offset} needs more than the "
            f"{block.size} bytes that hold it"
        )
    return Entry(block, dtype, tuple(shape), tuple(strides), offset)


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a C-ordered array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _small(numbers) -> bool:
    """Whether these are few non-negative integers that fit 63 bits."""
    if not isinstance(numbers, tuple) or len(numbers) > _MAX_DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _indexable(shape: tuple[int, ...]) -> bool:
    """Whether NumPy can make such an array: without elements, (0, 2**62) is still too large."""
    return math.prod(n for n in shape if n) < 2**60  # of at most 8 bytes each


def _short(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")


class LazyArrays(Mapping):
    """Name -> array, read from the file at each access; bfloat16 comes as float32.

    The axes of an array may lie in memory in another order, as they lie in the file.
    """

    def __init__(self, path: str | os.PathLike, entries: dict[str, Entry]):
        self.path = os.fspath(path)
        self.entries = entries
        self._verified: set[int] = set()  # starts of the blocks whose checksum was right

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name, self.entries[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def _read(self, name: str, entry: Entry) -> np.ndarray:
        with open(self.path, "rb") as file:
            reader = _Pieces(file, entry.block, entry.dtype, name)
            result = _filled(reader, entry)
            if entry.block.start not in self._verified:
                reader.check()
                self._verified.add(entry.block.start)
        return result


def _filled(reader: "_Pieces", entry: Entry) -> np.ndarray:
    dtype = np.dtype(_RESULTS.get(entry.dtype, DTYPES[entry.dtype]))
    if not math.prod(entry.shape):
        return np.zeros(entry.shape, dtype)
    # Axes in the order in which they lie in the file, so that it is read from front to back.
    order = sorted(range(len(entry.shape)), key=lambda axis: -entry.strides[axis])
    shape = tuple(entry.shape[axis] for axis in order)
    strides = tuple(entry.strides[axis] for axis in order)
    if strides == c_strides(shape):
        shape, strides = (math.prod(shape),), (1,)
    result = np.empty(shape, dtype)
    reader.fill(result, entry.offset, strides)
    result = result.reshape([entry.shape[axis] for axis in order])
    return result.transpose(np.argsort(order))


class _Pieces:
    """Reads a block in pieces of at most `_PIECE` bytes, so that reading needs the result alone."""

    def __init__(self, file, block: Block, dtype: str, name: str):
        self.file, self.block, self.dtype, self.name = file, block, dtype, name
        self.crc, self.read = block.before, 0  # of the bytes so far, as long as there was no gap

    def fill(self, out: np.ndarray, offset: int, strides: tuple[int, ...]) -> None:
        """Fills `out` with the elements at `offset` and `strides`, the largest stride first."""
        size = itemsize(self.dtype)
        if _span(out.shape[1:], strides[1:]) * size > _PIECE:
            for index in range(len(out)):
                self.fill(out[index], offset + index * strides[0], strides[1:])
            return
        rows = max(1, _PIECE // size // max(1, strides[0]))
        for start in range(0, len(out), rows):
            piece = out[start : start + rows]
            first, count = offset + start * strides[0], _span(piece.shape, strides) + 1
            raw = self._bytes(first * size, count * size)
            self._convert(raw, piece, tuple(s * size for s in strides))

    def check(self) -> None:
        """Compares the checksum, if the file has one, after reading what was not read in order."""
        if self.block.crc is None:
            return
        while self.read < self.block.size:
            self._bytes(self.read, min(_PIECE, self.block.size - self.read))
        if self.crc != self.block.crc:
            raise CheckpointFormatError(
                f"{_short(self.name)}: its bytes do not match the checksum in the file (damaged, "
                "or written with checksums switched off: save it again)"
            )

    def _bytes(self, start: int, length: int) -> np.ndarray:
        raw = np.empty(length, np.uint8)
        self.file.seek(self.block.start + start)
        got = self.file.readinto(raw)
        if got != length:
            raise CheckpointFormatError(
                f"{_short(self.name)}: the file ends after {got} of {length} bytes"
            )
        if self.block.crc is not None and start == self.read:
            self.crc, self.read = zlib.crc32(raw, self.crc), self.read + length
        return raw

    def _convert(self, raw: np.ndarray, piece: np.ndarray, strides: tuple[int, ...]) -> None:
        flat = raw.view(DTYPES[self.dtype])
        found = np.lib.stride_tricks.as_strided(flat, piece.shape, strides, writeable=False)
        if self.dtype == "bfloat16":
            np.left_shift(found, 16, out=piece.view(np.uint32), dtype=np.uint32)
        elif self.dtype == "bool":
            np.not_equal(found, 0, out=piece)
        else:
            piece[...] = found


def memory_limit(size: int) -> int:
    """Bytes that reading a file of `size` bytes may take: a tenth more, and of at least 1 MiB."""
    return max(size, 2**20) * 11 // 10


class Derived(Mapping):
    """Names -> functions that make the array when it is asked for."""

    def __init__(self, makers: dict[str, Callable[[], np.ndarray]]):
        self.makers = makers

    def __getitem__(self, name: str) -> np.ndarray:
        return self.makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Distance in elements from the first element to the last."""
    return sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
