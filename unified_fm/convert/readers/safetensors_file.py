"""`.safetensors`: a JSON header with byte ranges, then the bytes.

The header is checked whole (size, duplicate names, types, ranges without overlap or gap) before
any array is read. Writing is deterministic: the same arrays give the same bytes.
"""

import json
import math
import os
import struct
from collections.abc import Mapping

import numpy as np
import safetensors.numpy

from unified_fm import files
from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers import lazy
from unified_fm.convert.readers.lazy import Block, LazyArrays

_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
}
_EXPANSION = 12  # bytes of memory for a byte of the header, at most; 7 is usual


def open_safetensors(path: str | os.PathLike) -> LazyArrays:
    """Opens a safetensors file; arrays are read when they are asked for.

    Raises:
        CheckpointFormatError: the header is damaged, too large, or does not fit the file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise CheckpointFormatError(f"{os.path.basename(path)}: too short for safetensors")
        (length,) = struct.unpack("<Q", start)
        if length > size - 8 or length > lazy.memory_limit(size) // _EXPANSION:
            raise CheckpointFormatError(f"a header of {length} bytes in a file of {size}")
        raw = file.read(length)
    header = _parse(raw)
    entries, ranges = {}, []
    for name, fields in header.items():
        if name != "__metadata__":
            entries[name], first, last = _entry(name, fields, 8 + length, size)
            ranges.append((first, last, name))
    at = 0
    for first, last, name in sorted(ranges):
        if first != at:
            raise CheckpointFormatError(
                f"{name[:80]!r} starts at byte {first}, expected {at}: overlap or gap"
            )
        at = last
    if 8 + length + at != size:
        raise CheckpointFormatError(f"{size - 8 - length} bytes of data, the header tells of {at}")
    return LazyArrays(path, entries)


def _parse(raw: bytes) -> dict:
    def unique(pairs):
        names = dict(pairs)
        if len(names) != len(pairs):
            raise CheckpointFormatError("the header holds a name twice")
        return names

    # Each array has one object of at least 48 characters and two lists: more brackets would take
    # more memory than such a header needs.
    objects, lists = raw.count(b"{"), raw.count(b"[")
    if lists > 2 * objects or 48 * objects > len(raw) + 96:
        raise CheckpointFormatError("the header holds more than names, types, shapes and ranges")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(f"the header is not JSON: {error}") from error
    if type(header) is not dict:
        raise CheckpointFormatError("the header is not a JSON object")
    return header


def _entry(name: str, fields, base: int, size: int) -> tuple[lazy.Entry, int, int]:
    fits = type(fields) is dict and set(fields) == {"dtype", "shape", "data_offsets"}
    if not fits or type(fields["dtype"]) is not str or type(fields["shape"]) is not list:
        raise CheckpointFormatError(f"{name[:80]!r}: its entry in the header is malformed")
    offsets = fields["data_offsets"]
    if type(offsets) is not list or [type(n) for n in offsets] != [int, int]:
        raise CheckpointFormatError(f"{name[:80]!r}: its byte range is malformed")
    first, last = offsets
    if not 0 <= first <= last <= size - base:
        raise CheckpointFormatError(f"{name[:80]!r}: bytes {first}..{last} are not in the file")
    if fields["dtype"] not in _DTYPES:
        raise CheckpointFormatError(
            f"{name[:80]!r} holds {fields['dtype'][:20]!r}; possible: {', '.join(_DTYPES)}"
        )
    dtype, block = _DTYPES[fields["dtype"]], Block(base + first, last - first)
    entry = lazy.checked_entry(name, block, dtype, tuple(fields["shape"]))
    if math.prod(entry.shape) * lazy.itemsize(dtype) != block.size:
        raise CheckpointFormatError(f"{name[:80]!r}: {block.size} bytes for {fields['shape']}")
    return entry, first, last


def write_safetensors(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays, whole or not at all; the same arrays give the same bytes."""
    contiguous = {name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}
    with files.whole(path) as temporary:
        safetensors.numpy.save_file(contiguous, temporary, dict(metadata or {}) or None)
