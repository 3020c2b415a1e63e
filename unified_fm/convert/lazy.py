"""Arrays that lie in a file and are read one at a time.

Every reader of this package first checks all of a file's declarations against the file's size and
then hands out `LazyArrays`: reading one array allocates that array and no more.
"""

import dataclasses
import math
import os
import zlib
from collections.abc import Iterator, Mapping

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


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return np.dtype(DTYPES[dtype]).itemsize


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A range of bytes of the file, with the CRC-32 that the file declares for it, if any."""

    start: int
    size: int
    crc: int | None = None


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
        CheckpointFormatError: dimensions are not small integers, or elements lie outside.
    """
    strides = c_strides(shape) if strides is None and _small(shape) else strides
    if not _small(shape) or not _small(strides) or not _small((offset,)):
        raise CheckpointFormatError(f"{_short(name)}: shape, strides or offset are not plausible")
    if len(shape) != len(strides):
        raise CheckpointFormatError(f"{_short(name)}: {len(shape)} sizes, {len(strides)} strides")
    have = block.size // itemsize(dtype)
    count = math.prod(shape)
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


class LazyArrays(Mapping):
    """Name -> array, read from the file at each access; bfloat16 comes as float32."""

    def __init__(self, path: str | os.PathLike, entries: dict[str, Entry]):
        self.path = os.fspath(path)
        self.entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name, self.entries[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def _read(self, name: str, entry: Entry) -> np.ndarray:
        block, size = entry.block, itemsize(entry.dtype)
        count = math.prod(entry.shape)
        if not count:
            return np.zeros(entry.shape, "<f4" if entry.dtype == "bfloat16" else _dtype(entry))
        last = sum((n - 1) * s for n, s in zip(entry.shape, entry.strides, strict=True))
        start, length = entry.offset * size, (last + 1) * size
        raw = np.empty(length, np.uint8)
        with open(self.path, "rb") as file:
            file.seek(block.start + start)
            got = file.readinto(raw)
        if got != length:
            raise CheckpointFormatError(f"{_short(name)}: the file ends after {got} of {length}")
        if block.crc is not None and length == block.size and zlib.crc32(raw) != block.crc:
            raise CheckpointFormatError(
                f"{_short(name)}: its bytes do not match the checksum in the file (damaged, or "
                "written with checksums switched off: save it again)"
            )
        flat = raw.view(DTYPES[entry.dtype])
        array = np.lib.stride_tricks.as_strided(
            flat, entry.shape, tuple(s * size for s in entry.strides), writeable=False
        )
        if entry.dtype == "bfloat16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        if entry.dtype == "bool":
            return array != 0
        return array if array.flags.c_contiguous else np.array(array, order="C")


def _dtype(entry: Entry) -> str:
    return "bool" if entry.dtype == "bool" else DTYPES[entry.dtype]
