"""Records that are lines of a text file: where each begins and ends."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unified_fm import buckets, files
from unified_fm.data import records
from unified_fm.data.sources import _arguments
from unified_fm.data.sources._kept import Stamped

_BLOCK = 1 << 24
_BLANK = 16  # bytes that a line has at most to be looked at for being blank
_BOM = b"\xef\xbb\xbf"
# {number of bytes before it, a block} -> places of the line breaks in it that end a record
Breaks = Callable[[int, bytes], np.ndarray]


class Lines(NamedTuple):
    """The lines of a file.

    Attributes:
        file: as it was.
        spans: i64[lines 2], start and end of each line that is not blank; 16 bytes a line.
        blanks: i64[blank lines], which lines of all are blank.
    """

    file: Stamped
    spans: np.ndarray
    blanks: np.ndarray

    def read(self, line: int) -> bytes:
        """A line. Raises as `Stamped.read`."""
        start, end = self.spans[line].tolist()
        return self.file.read(start, end)

    def size(self, line: int) -> int:
        """Bytes of a line."""
        start, end = self.spans[line].tolist()
        return end - start

    def number(self, line: int) -> int:
        """The number that an editor shows for it, from 1 and with the blank ones."""
        before = np.searchsorted(self.blanks - np.arange(len(self.blanks)), line, side="right")
        return line + int(before) + 1


def index(path: str, breaks: Breaks | None = None) -> Lines:
    """Finds the lines of a file; `breaks` says which line breaks count, by default all.

    Raises:
        official.WrongFile: it is compressed, or UTF-16.
        OSError: it cannot be read.
    """
    file, found, offset = Stamped.of(path), [], 0
    kept = ""
    if buckets.holds(path) and breaks is None:  # it would be loaded once more by every process
        kept = buckets.cache_folder("lines", path)
        if (known := _load(kept, file)) is not None:
            return known
    with buckets.open_binary(path, ahead=_BLOCK) as stream:
        while block := stream.read(_BLOCK):
            if not offset:
                _arguments.refuse_packed(path, block[:8])
                _arguments.refuse_wide(path, block[:2])
            found.append((newlines if breaks is None else breaks)(offset, block) + offset)
            offset += len(block)
        ends = np.concatenate([*found, [offset]]).astype(np.int64)
        starts = np.concatenate([[0], ends[:-1] + 1])
        stream.seek(0)
        if stream.read(len(_BOM)) == _BOM:
            starts[0] = len(_BOM)
        spans, blank = np.stack([starts, ends], axis=1), np.zeros(len(ends), bool)
        for line in np.flatnonzero(ends - starts < _BLANK):
            start, end = spans[line].tolist()
            stream.seek(start)
            blank[line] = not stream.read(end - start).strip()
    lines = Lines(file, spans[~blank], np.flatnonzero(blank))
    if kept:
        _save(kept, lines)
    return lines


def _load(folder: str, file: Stamped) -> Lines | None:
    """What was found in the same file before; None where nothing is kept, or it is damaged."""
    try:
        found = records.decode(pathlib.Path(folder, "index").read_bytes())
        if Stamped(*found["file"]) != file:
            return None
        spans, blanks = found["spans"], found["blanks"]
        sound = spans.shape[1:] == (2,) and (np.diff(spans.ravel()) >= 0).all()
        if not sound or (len(spans) and not 0 <= spans[0, 0] <= spans[-1, 1] <= file.size):
            return None
        return Lines(file, spans, blanks)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _save(folder: str, lines: Lines) -> None:
    about = {"file": list(lines.file), "spans": lines.spans, "blanks": lines.blanks}
    with contextlib.suppress(OSError):  # the next start is only slower
        os.makedirs(folder, exist_ok=True)
        files.write_whole(os.path.join(folder, "index"), records.encode(about))


def newlines(offset: int, block: bytes) -> np.ndarray:
    """i64[n]: the places of all line breaks of a block."""
    del offset
    return np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))


def number_at(path: str, offset: int) -> int:
    """The number of the line, from 1, in which a byte of a file lies; reads all before it."""
    number = 1
    with buckets.open_binary(path, ahead=_BLOCK) as stream:
        while offset > 0 and (block := stream.read(min(_BLOCK, offset))):
            number += block.count(b"\n")
            offset -= len(block)
    return number
