"""The entries of a zip file that were stored without compression: names and byte ranges.

`.pth`, `.bin` and `.npz` files are such archives. `zipfile` reads the directory; compressed entries
are refused (they are how a small file asks for much memory), as are encrypted, overlapping and
repeated ones and names that are paths out of the archive. Nothing is unpacked.
"""

import io
import itertools
import os
import re
import struct
import zipfile

from unified_fm.convert.errors import CheckpointFormatError
from unified_fm.convert.readers import lazy
from unified_fm.convert.readers.lazy import Block

_ENTRY = 1100  # bytes of memory for an entry of the directory and the array in it
_NAME = re.compile(r"[A-Za-z0-9_.@+:,=()\[\] /-]{1,512}")
# What `zipfile` raises at damaged files, one way or another.
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError)


class _Bounded(io.FileIO):
    """A file that refuses to give a directory which would take more memory than the file may.

    `count` is the number of entries in what was read last.
    """

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        limit = lazy.memory_limit(os.fstat(self.fileno()).st_size)
        if size is not None and 3 * size > limit:
            raise CheckpointFormatError(f"damaged zip file: a directory of {size} bytes")
        data = super().read(size)
        self.count = data.count(b"PK\x01\x02")  # every entry of a directory begins so
        if 3 * len(data) + _ENTRY * self.count > limit:
            raise CheckpointFormatError(f"{self.count} entries are too many for such a small file")
        return data


def stored_entries(path: str | os.PathLike) -> dict[str, Block]:
    """Lists the entries of a zip file, in the order of the directory.

    Raises:
        CheckpointFormatError: the archive is damaged or does one of the things refused above.
    """
    entries, ranges = {}, []
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            if file.count != len(archive.infolist()):  # a wrong length may hide the next entry
                raise CheckpointFormatError("damaged zip file: its directory has gaps")
            for info in archive.infolist():
                name = _check(info, entries)
                archive.open(info).close()  # compares its own header with the directory
                file.seek(info.header_offset + 26)
                lengths = struct.unpack("<2H", file.read(4))
                start = info.header_offset + 30 + sum(lengths)
                entries[name] = Block(start, info.file_size, info.CRC)
                ranges.append((info.header_offset, start + info.file_size, name))
            ranges.append((archive.start_dir, 0, ""))
    except CheckpointFormatError:
        raise
    except (*_DAMAGED, struct.error) as error:
        raise CheckpointFormatError(f"damaged zip file: {str(error)[:200]}") from error
    ranges.sort()
    for (_, stop, name), (following, _, _) in itertools.pairwise(ranges):
        if stop > following:
            raise CheckpointFormatError(f"{name!r} runs into what follows it, or past the end")
    return entries


def _check(info: zipfile.ZipInfo, entries: dict[str, Block]) -> str:
    name = info.orig_filename
    parts = name.split("/")
    # `.data` and `.format_version` are PyTorch's own entries; `..` and absolute paths are not.
    if not _NAME.fullmatch(name) or ".." in parts or not parts[0] or ":" in parts[0]:
        raise CheckpointFormatError(f"the zip file holds an entry named {name[:80]!r}: refused")
    if name in entries:
        raise CheckpointFormatError(f"the zip file holds two entries named {name!r}")
    if info.compress_type or info.flag_bits & 1 or info.file_size != info.compress_size:
        raise CheckpointFormatError(
            f"{name!r} is compressed or encrypted (method {info.compress_type}); only stored "
            "entries are read: write the file again without compression"
        )
    return name
