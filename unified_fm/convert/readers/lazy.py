"""Arrays that lie in a file and are read one at a time.

Every reader of this package first checks all of a file's declarations against the file's size and
then hands out `LazyArrays`: reading one array takes the memory of that array and no more.
"""

import dataclasses
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

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
_MAX_DIMENSIONS = 16
_MAX_NAME = 1024


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
    if strides is None:
        strides = c_strides(shape) if _small(shape) else ()
    fits = _small(shape) and _small(strides) and _small((offset,))
    # Without elements, (0, 2**62) is still too large for NumPy, of at most 8 bytes each.
    if not fits or math.prod(n for n in shape if n) >= 2**60:
        raise CheckpointFormatError(f"{_short(name)}: shape, strides or offset are not plausible")
    if len(shape) != len(strides):
        raise CheckpointFormatError(f"{_short(name)}: {len(shape)} sizes, {len(strides)} strides")
    have = block.size // itemsize(dtype)
    count = math.prod(shape)
    # Of the first and of the last element, if there are any.
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if count else 0
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


def _short(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")


class Derived(Mapping):
    """Names -> functions that make the array when it is asked for."""

    def __init__(self, entries: Mapping[str, Any]):
        self.entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class LazyArrays(Derived):
    """Name -> array, read from the file at each access; bfloat16 comes as float32.

    The axes of an array may lie in memory in another order, as they lie in the file.
    """

    def __init__(self, path: str | os.PathLike, entries: Mapping[str, Entry]):
        super().__init__(entries)
        self.path = os.fspath(path)
        self._verified: set[int] = set()  # starts of the blocks whose checksum was right

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self.entries[name]
        raw = self._block(name, entry.block)
        whole = raw[: len(raw) // itemsize(entry.dtype) * itemsize(entry.dtype)]
        numbers = whole.view(DTYPES[entry.dtype])[entry.offset :]
        strides = [stride * numbers.itemsize for stride in entry.strides]
        found = np.lib.stride_tricks.as_strided(numbers, entry.shape, strides, writeable=False)
        if entry.dtype == "bool":
            return np.not_equal(found, 0)
        if entry.dtype == "bfloat16":
            wide = found.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return found.copy("K")

    def _block(self, name: str, block: Block) -> np.ndarray:
        """The bytes of a block, mapped from the file and not in memory; verified the first time."""
        raw: Any = np.zeros(0, np.uint8)
        if block.size:
            try:
                mapped = np.memmap(self.path, np.uint8, "r", block.start, (block.size,))
            except ValueError as error:
                raise CheckpointFormatError(f"{_short(name)}: the file became shorter") from error
            raw = np.asarray(mapped)
        if block.crc is not None and block.start not in self._verified:
            if zlib.crc32(raw, block.before) != block.crc:
                raise CheckpointFormatError(
                    f"{_short(name)}: its bytes do not match the checksum in the file (damaged, "
                    "or written with checksums switched off: save it again)"
                )
            self._verified.add(block.start)
        return raw


def memory_limit(size: int) -> int:
    """Bytes that reading a file of `size` bytes may take: a tenth more, and of at least 1 MiB."""
    return max(size, 2**20) * 11 // 10
