"""`.npz`: NumPy's own archives, as Google publishes ViT and AugReg weights in.

Only plain numbers stored without compression; objects (which would be pickles) are refused. The
archive's checksum of an array, header included, is compared when the array is read.
bfloat16 arrays, which NumPy writes as raw two-byte records, come back as float32.
"""

import os
import re
import struct
import zlib

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers import lazy
from unified_fm.convert.readers.lazy import Block, LazyArrays
from unified_fm.convert.readers.zip_entries import stored_entries

_DTYPES = {code: name for name, code in lazy.DTYPES.items() if name not in ("bfloat16", "bool")}
_DTYPES |= {"|b1": "bool", "|V2": "bfloat16", "<V2": "bfloat16"}
_HEADER = re.compile(
    r"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), "
    r"'shape': \((|\d+, ?|\d+(?:, ?\d+)+,? ?)\), *\}"
)


def open_npz(path: str | os.PathLike) -> LazyArrays:
    """Opens an `.npz` file; arrays are read when they are asked for.

    Raises:
        CheckpointFormatError: damaged, compressed, or not plain numbers.
    """
    arrays = {}
    entries = stored_entries(path)
    with open(path, "rb") as file:
        for name, block in entries.items():
            if not name.endswith(".npy"):
                raise CheckpointFormatError(f"{name!r} in an .npz file is no array")
            arrays[name.removesuffix(".npy")] = _entry(file, name, block)
    return LazyArrays(path, arrays)


def _entry(file, name: str, block: Block) -> lazy.Entry:
    file.seek(block.start)
    start = file.read(min(block.size, 12))
    if len(start) < 12 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2, 3):
        raise CheckpointFormatError(f"{name!r} is no array of NumPy's format")
    code, skip = ("<H", 10) if start[6] == 1 else ("<I", 12)
    (length,) = struct.unpack_from(code, start, 8)
    if length > 4096 or skip + length > block.size:
        raise CheckpointFormatError(f"{name!r}: a header of {length} bytes")
    file.seek(block.start)
    start = file.read(skip + length)
    header = start[skip:].decode("latin-1").rstrip(" \n")
    found = _HEADER.fullmatch(header)
    if not found or found[1] not in _DTYPES or len(found[3]) > 200:
        raise CheckpointFormatError(f"{name!r} does not hold plain numbers: {header[:80]!r}")
    shape = tuple(int(n) for n in found[3].replace(" ", "").split(",") if n)
    strides = lazy.c_strides(shape[::-1])[::-1] if found[2] == "True" else None
    # The checksum of the entry covers its header too.
    data = Block(
        block.start + len(start), block.size - len(start), block.crc, before=zlib.crc32(start)
    )
    return lazy.checked_entry(name, data, _DTYPES[found[1]], shape, strides)
