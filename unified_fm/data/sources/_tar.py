"""The members of a tar archive, read strictly from a stranger's file: never unpacked.

Only names, sizes and places are taken. Regular files and folders are all that may be in it; what
could ever be written elsewhere if somebody unpacked it (absolute paths, "..", links, devices), and
what programs read differently (sparse files, two sizes for one file), is refused as a whole. An
archive that is cut off is not hostile: it gives its members up to there, and a sentence.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from unified_fm import buckets
from unified_fm.data import official
from unified_fm.data.sources import _arguments

BLOCK = 512
MOST_MEMBERS = 500_000  # of an archive: each takes about 30 bytes of memory
_MOST_NAME = 4096  # bytes of a long name
_MOST_EXTRA = 1 << 20  # bytes of a PAX header
_MOST_TAIL = 1 << 20  # bytes behind the end that are looked at
_AHEAD = 4096  # bytes read at once: a few headers, and little of the pictures between them
_AHEAD_IN_BUCKET = 1 << 23
_ZERO = bytes(BLOCK)
_UNPRINTED = re.compile(r"[\0-\x1f]")
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
    b"K": "a link of a long name",
    b"M": "a part of another volume",
}
_REGULAR, _FOLDER, _LONG_NAME, _EXTRA, _GLOBAL = (b"0", b"\0", b"7"), b"5", b"L", b"x", b"g"


class HostileTar(official.WrongFile):
    """An archive that has in it what no archive of samples has; nothing of it is used."""


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes:
        name: its path in the archive.
        offset: of its first byte; its header is the block before.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


class Contents(NamedTuple):
    """What is in an archive.

    Attributes:
        members: the regular files, in order.
        fault: why there are no more of them; "" where the archive is whole.
    """

    members: list[Member]
    fault: str


class _Cut(Exception):
    """The archive cannot be read from here on."""


def read(path: str) -> Contents:
    """Looks through an archive.

    Raises:
        HostileTar: see the module; the message names the member and its place.
        official.WrongFile: it is compressed.
        OSError: it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        if buckets.holds(path):  # a request costs more than the pictures between two headers
            size, ahead = buckets.about(path).size, _AHEAD_IN_BUCKET
            read_at = functools.partial(_read_at, path)
        else:
            number = stack.enter_context(open(path, "rb", buffering=0)).fileno()
            size, ahead = os.fstat(number).st_size, _AHEAD
            read_at = functools.partial(os.pread, number)
        archive = _Archive(path, size, ahead, read_at)
        _arguments.refuse_packed(path, archive.block(0), "the members of it cannot be found")
        members: list[Member] = []
        try:
            for member in archive.members():
                members.append(member)
                if len(members) > MOST_MEMBERS:
                    raise HostileTar(
                        f"{path} has more than {MOST_MEMBERS:,} members; split it: img2dataset"
                        " writes 10,000 samples into one"
                    )
        except _Cut as cut:
            return Contents(members, str(cut))
    return Contents(members, "")


def is_header(block: bytes, size: int) -> bool:
    """Whether a block is the header of a member of this size."""
    return len(block) == BLOCK and _sum_fits(block) and _octal(block[124:136]) == size


class _Archive:
    """An open archive."""

    def __init__(self, path: str, size: int, ahead: int, read_at: Callable[[int, int], bytes]):
        self.path, self.size, self._ahead, self._read_at = path, size, ahead, read_at
        self._start, self._read = 0, b""

    def block(self, offset: int) -> bytes:
        """The 512 bytes from there; fewer at the end of the file."""
        return self._bytes(offset, BLOCK)

    def members(self) -> Iterator[Member]:
        """Yields the regular files.

        Raises:
            HostileTar: see the module.
            _Cut: it is cut off, or no header stands where one should.
        """
        place, name, size = 0, "", None  # what a header before says of the next member
        while True:
            block = self.block(place)
            if block == _ZERO:
                return self._end(place)
            if not block and place:
                raise _Cut("it has no end: the file may have been cut off between two members")
            self._check(block, place)
            kind, offset = block[156:157], place + BLOCK
            stated = self._size(block, place)
            if kind in (_LONG_NAME, _EXTRA, _GLOBAL):
                most = _MOST_NAME if kind == _LONG_NAME else _MOST_EXTRA
                if stated > most:
                    raise self._hostile(place, f"a header of {stated:,} bytes; at most {most:,}")
                extra = self._bytes(offset, stated)
                if len(extra) < stated:
                    raise _Cut(f"it is cut off at byte {offset:,}, in a header")
                if kind == _LONG_NAME:
                    name = extra.rstrip(b"\0").decode("utf-8", "surrogateescape")
                else:
                    found = self._extra(extra, place, everywhere=kind == _GLOBAL)
                    name, size = found.get("path", name), found.get("size", size)
                place = _padded(offset + stated)
                continue
            name = name or _name(block)
            self._judge(kind, name, place)
            if size is not None and int(size) != stated:
                raise self._hostile(place, f"{name!r} has two sizes, {stated:,} and {size}")
            if offset + stated > self.size:
                raise _Cut(
                    f"it is cut off: {name!r} at byte {place:,} has {stated:,} bytes, and"
                    f" {max(0, self.size - offset):,} are left in the file"
                )
            if kind == _FOLDER and stated:
                raise self._hostile(place, f"the folder {name!r} has {stated:,} bytes")
            if kind in _REGULAR and not name.endswith("/"):
                yield Member(name, offset, stated)
            place, name, size = _padded(offset + stated), "", None

    def _end(self, place: int) -> None:
        """Looks at what stands behind the end: more archives, of which readers see the first."""
        tail = self._bytes(place, _MOST_TAIL + 1)
        if len(tail) > _MOST_TAIL or tail.strip(b"\0"):
            raise _Cut(
                f"it ends at byte {place:,} of {self.size:,}, and what stands behind that is not"
                " read (are these several archives, one behind the other?)"
            )

    def _check(self, block: bytes, place: int) -> None:
        if len(block) < BLOCK or not _sum_fits(block):
            what = "no tar archive" if not place else f"damaged or cut off at byte {place:,}"
            raise _Cut(
                f"it is {what}: {official.shown(bytes(block[:16]))} is no header of a member"
            )

    def _size(self, block: bytes, place: int) -> int:
        size = _octal(block[124:136])
        if size is None or size < 0:
            raise self._hostile(place, f"a size that is none: {bytes(block[124:136])!r}")
        return size

    def _judge(self, kind: bytes, name: str, place: int) -> None:
        """Refuses what no archive of samples has."""
        if kind not in (*_REGULAR, _FOLDER):
            what = _KINDS.get(kind, f"of the unknown kind {kind!r}")
            raise self._hostile(place, f"{name!r} is {what}; regular files are possible")
        if name.startswith("/") or ".." in name.split("/"):
            raise self._hostile(place, f"{name!r} leads out of the folder that one would unpack to")
        if not name or _UNPRINTED.search(name):
            raise self._hostile(place, f"{name!r} is no name")

    def _extra(self, raw: bytes, place: int, *, everywhere: bool) -> dict[str, str]:
        """The path and the size of a PAX header, "LENGTH KEY=VALUE\\n" one after the other."""
        found: dict[str, str] = {}
        while raw:
            digits, _, _ = raw.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
            key, equals, value = raw[len(digits) + 1 : length - 1].partition(b"=")
            if not equals or length > len(raw) or raw[length - 1 : length] != b"\n":
                raise self._hostile(place, f"a PAX header that is none: {bytes(raw[:32])!r}")
            word = key.decode("utf-8", "replace")
            if word.startswith("GNU.sparse") or word == "linkpath":
                raise self._hostile(place, f"a PAX header with {word!r}: a sparse file or a link")
            if word in ("path", "size"):
                if everywhere:
                    raise self._hostile(place, f"one {word} for all members")
                found[word] = value.decode("utf-8", "surrogateescape")
            raw = raw[length:]
        if not found.get("size", "0").isdigit():
            raise self._hostile(place, f"a size that is none: {found['size']!r}")
        return found

    def _hostile(self, place: int, found: str) -> HostileTar:
        return HostileTar(f"{self.path}, byte {place:,}: {found}. Nothing of this archive is used")

    def _bytes(self, offset: int, size: int) -> bytes:
        start = offset - self._start
        if start < 0 or start + size > len(self._read):
            self._start = offset
            self._read = self._read_at(max(size, self._ahead), offset)
            start = 0
        return self._read[start : start + size]


def _read_at(path: str, size: int, offset: int) -> bytes:
    return buckets.read(path, offset, offset + size)


def _sum_fits(block: bytes) -> bool:
    """Whether the sum in a header is that of its bytes; old programs have summed signed ones."""
    stated = _octal(block[148:156])
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    return stated == total or stated == total - 256 * sum(x > 127 for x in block)


def _octal(field: bytes) -> int | None:
    if field[:1] in (b"\x80", b"\xff"):  # a number of 8 GB and more, in base 256; or below 0
        return int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else -1
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:  # an 8 or a 9
        return None


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _padded(end: int) -> int:
    return -(-end // BLOCK) * BLOCK
