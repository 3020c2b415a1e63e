"""The entries of a zip file that were stored without compression: names and byte ranges.

`.pth`, `.bin` and `.npz` files are such archives. Compressed entries are refused (they are how a
small file asks for much memory), as are encrypted, overlapping and repeated ones and names that
are paths out of the archive. Nothing is unpacked to disk.
"""

import re
import struct

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers import lazy
from unified_fm.convert.readers.lazy import Block

_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_CENTRAL, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_MAX_ENTRIES = 20_000
_ENTRY = 700  # bytes of memory for an entry and the array in it
_NAME = re.compile(r"[A-Za-z0-9_.@+:,=()\[\] /-]{1,512}")


def stored_entries(file, size: int) -> dict[str, Block]:
    """Lists the entries of an open zip file of `size` bytes, in the order of the directory.

    Raises:
        CheckpointFormatError: the archive is damaged or does one of the things refused above.
    """
    try:
        start, length, count = _find_directory(file, size)
        directory = _read(file, start, length)
        return _entries(file, directory, start, count)
    except struct.error as error:
        raise CheckpointFormatError(f"damaged zip file: {error}") from error


def _read(file, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise CheckpointFormatError(f"damaged zip file: it ends inside {length} bytes at {start}")
    return data


def _find_directory(file, size: int) -> tuple[int, int, int]:
    """Start, length and number of entries of the central directory."""
    tail_start = max(0, size - 65_557)
    tail = _read(file, tail_start, size - tail_start)
    at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        raise CheckpointFormatError("no zip directory at the end: the file is truncated")
    disk, _, count, total, length, start, comment = struct.unpack_from("<4H2IH", tail, at + 4)
    if at + 22 + comment != len(tail):
        raise CheckpointFormatError("damaged zip file: bytes after its end")
    end = tail_start + at
    saturated = 0xFFFF in (count, total) or 0xFFFFFFFF in (length, start)
    # PyTorch writes the 64-bit directory into every file, NumPy only where it must.
    if saturated or (at >= 20 and tail[at - 20 : at - 16] == _LOCATOR):
        end, disk, count, total, length, start = _find_directory64(file, end)
    if disk or count != total:
        raise CheckpointFormatError("zip files of several disks are not supported")
    if start + length != end or count > _MAX_ENTRIES or length < 46 * count:
        raise CheckpointFormatError(
            f"damaged zip file: a directory of {count} entries, {length} bytes at {start}"
        )
    if length + _ENTRY * count > lazy.memory_limit(size):
        raise CheckpointFormatError(f"{count} entries are too many for {size} bytes")
    if length > 1024 * max(count, 1):
        raise CheckpointFormatError(f"{length} bytes of zip directory for {count} entries")
    return start, length, count


def _find_directory64(file, end: int) -> tuple[int, int, int, int, int, int]:
    if end < 20:
        raise CheckpointFormatError("damaged zip file: no room for its 64-bit directory")
    magic, _, where, _ = struct.unpack("<4sIQI", _read(file, end - 20, 20))
    if magic != _LOCATOR or where + 56 > end:
        raise CheckpointFormatError("damaged zip file: its 64-bit directory is not found")
    record = _read(file, where, 56)
    if record[:4] != _END64:
        raise CheckpointFormatError("damaged zip file: its 64-bit directory is not found")
    disk, _, count, total, length, start = struct.unpack_from("<2I4Q", record, 16)
    return where, disk, count, total, length, start


def _entries(file, directory: bytes, end: int, count: int) -> dict[str, Block]:
    entries, ranges, at = {}, [], 0
    for _ in range(count):
        if directory[at : at + 4] != _CENTRAL:
            raise CheckpointFormatError(f"damaged zip directory at byte {at}")
        flags, method, _, _, crc, packed, size, n, extra, comment, disk = struct.unpack_from(
            "<4H3I4H", directory, at + 8
        )
        (local,) = struct.unpack_from("<I", directory, at + 42)
        name = _check_name(directory[at + 46 : at + 46 + n], entries)
        fields = directory[at + 46 + n : at + 46 + n + extra]
        size, packed, local = _wide(fields, size, packed, local)
        if method or flags & 0x1 or size != packed:
            raise CheckpointFormatError(
                f"{name!r} is compressed or encrypted (method {method}); only stored entries are "
                "read: write the file again without compression"
            )
        if disk or local + 30 > end:
            raise CheckpointFormatError(f"{name!r} lies outside the file")
        start = _data_start(file, local, name)
        entries[name] = Block(start, size, crc)
        ranges.append((local, start + size, name))
        at += 46 + n + extra + comment
    if at != len(directory):
        raise CheckpointFormatError("damaged zip file: its directory has another length")
    _check_ranges(sorted(ranges), end)
    return entries


def _check_name(raw: bytes, entries) -> str:
    name = raw.decode("latin-1")
    parts = name.split("/")
    # `.data` and `.format_version` are PyTorch's own entries; `..` and absolute paths are not.
    if not _NAME.fullmatch(name) or ".." in parts or not parts[0] or ":" in parts[0]:
        raise CheckpointFormatError(f"the zip file holds an entry named {name[:80]!r}: refused")
    if name in entries:
        raise CheckpointFormatError(f"the zip file holds two entries named {name!r}")
    return name


def _wide(fields: bytes, size: int, packed: int, local: int) -> tuple[int, int, int]:
    """Replaces the numbers that are saturated at 32 bits by those of the ZIP64 field."""
    wanted = [number == 0xFFFFFFFF for number in (size, packed, local)]
    if not any(wanted):
        return size, packed, local
    at = 0
    while at + 4 <= len(fields):
        kind, length = struct.unpack_from("<2H", fields, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{sum(wanted)}Q", fields, at + 4))
            numbers = (size, packed, local)
            return tuple(next(values) if w else v for w, v in zip(wanted, numbers, strict=True))
        at += 4 + length
    raise CheckpointFormatError("damaged zip file: a 64-bit size is missing")


def _data_start(file, local: int, name: str) -> int:
    header = _read(file, local, 30)
    n, extra = struct.unpack_from("<2H", header, 26)
    if header[:4] != _LOCAL or _read(file, local + 30, n) != name.encode("latin-1"):
        raise CheckpointFormatError(f"{name!r}: its header and the zip directory disagree")
    return local + 30 + n + extra


def _check_ranges(ranges: list[tuple[int, int, str]], end: int) -> None:
    starts = [start for start, _, _ in ranges[1:]] + [end]
    for (_, stop, name), following in zip(ranges, starts, strict=True):
        if stop > following:
            raise CheckpointFormatError(f"{name!r} runs into what follows it, or past the end")
