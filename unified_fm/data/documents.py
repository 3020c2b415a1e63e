"""Long documents as rows: every token of them is in one, and the rows are what a stream counts.

    chunks    a row is a part of one document, as many whole words as it takes
    packed    documents follow each other in a row until it is full; what is left goes to the next

The documents are tokenised once, when the source is opened, to learn where rows begin; that table
is kept (20 bytes for each part of a document, 8 more for each row), and a row's text is read and
tokenised again when it is asked for. So a row is a record like any other: it has a number, and
order, position and epochs count rows.
"""

import array
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from unified_fm import choices
from unified_fm.data.selection import lost_of
from unified_fm.data.skips import Skip
from unified_fm.data.sources.base import Source
from unified_fm.data.tokenizer import Pieces

_log = logging.getLogger(__name__)

KINDS = ("chunks", "packed")
ROW = "row"  # the field of an example that holds the row's texts
_WINDOW = 65_536  # characters that are tokenised as one text
_AT_ONCE = 2**22  # characters that are tokenised together, about
_LEAST = 8  # tokens, and an eighth of a row: one with less room is full
_LINE_EVERY = 30.0  # seconds
_SPACES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


class _Document(NamedTuple):
    record: int
    which: int  # of the texts of the record
    text: str


class Rows(Source):
    """The rows of another source's documents.

    A row's example has `row`, its texts, and `documents`, the numbers of their records. A record
    that cannot be used is a row of its own, which raises `Skip`.
    """

    def __init__(
        self,
        source: Source,
        *,
        texts: Callable[[dict[str, Any]], Sequence[str]],
        pieces: Callable[[Sequence[str]], Sequence[Pieces]],
        room: int,
        kind: str,
        extra: int = 0,
    ):
        """Tokenises all documents.

        Args:
            source: its records are documents.
            texts: the documents of a record; raises `Skip` where there is none.
            pieces: `Tokenizer.pieces`.
            room: tokens of a row that are for texts; of several texts in a row, each after the
                first takes one more, for the sep between them.
            kind: of `KINDS`.
            extra: tokens that a part may have more by itself than it has in the whole text.

        Raises:
            ValueError: another kind.
        """
        choices.check("long", kind, KINDS)
        self._source, self._texts = source, texts
        self.problems = source.problems
        self.class_names = source.class_names
        self._parts = _Parts()
        began = time.monotonic()
        filler = _Packer if kind == "packed" else _Chunker
        fill = filler(self._parts, room, extra)
        documents = tokens = 0
        for document, found in _tokenised(source, texts, pieces):
            fill(document, found)
            documents, tokens = documents + 1, tokens + len(found.ends)
        fill.finish()
        self._parts.close()
        self.lost = lost_of(source, len(self))  # in rows
        _log.info(
            "%d rows of %d tokens at most, of %d documents with %d tokens (long=%s); %.0f s",
            len(self),
            room,
            documents,
            tokens,
            kind,
            time.monotonic() - began,
        )

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = list(self._parts.of(index))
        texts = [self._text(*part) for part in found]
        return {ROW: texts, "documents": [part[0] for part in found]}

    def place(self, index: int) -> str:
        """The records of the row, and where the first of them lies."""
        records = [part[0] for part in self._parts.of(index)]
        first = self._source.place(records[0])
        numbers = ", ".join(map(str, records[:5])) + (", ..." if len(records) > 5 else "")
        return f"of document {numbers}" + (f", {first}" if first else "")

    def other_document(self, index: int, draw: Callable[[int], int]) -> int:
        """The number of a row that is of another document; of one document alone, another row.

        `draw(n)` gives a number below n.
        """
        here = {part[0] for part in self._parts.of(index)}
        found = index
        for _ in range(10):  # as published: after ten it is taken as it is
            found = draw(len(self))
            if here.isdisjoint(part[0] for part in self._parts.of(found)):
                break
        return found

    def _text(self, record: int, which: int, start: int, end: int) -> str:
        texts = self._texts(self._source[record])
        if which >= len(texts) or end > len(texts[which]):
            raise Skip("a document that has changed", f"record {record}")
        return texts[which][start:end]


class _Parts:
    """The table: which part of which document lies in which row."""

    def __init__(self) -> None:
        self._records, self._first = array.array("q"), array.array("q", [0])
        self._where = array.array("I")  # which text of the record, start, end
        self._table: tuple[np.ndarray, ...] = ()

    def add(self, document: _Document, start: int, end: int) -> None:
        """One more part in the row that is being filled; one of spaces alone is left out."""
        if document.text[start:end].isspace():
            return
        self._records.append(document.record)
        self._where.extend((document.which, start, end))

    def end_row(self) -> None:
        """The row is full; nothing happens if nothing is in it."""
        if len(self._records) > self._first[-1]:
            self._first.append(len(self._records))

    def close(self) -> None:
        """No more is to come."""
        self.end_row()
        self._table = (
            np.array(self._first, np.int64),
            np.array(self._records, np.int64),
            np.array(self._where, np.uint32).reshape(-1, 3),
        )
        del self._records, self._where, self._first

    def __len__(self) -> int:
        return len(self._table[0]) - 1

    def of(self, row: int) -> Iterator[tuple[int, int, int, int]]:
        """(record, which text of it, start, end) of each part of a row."""
        first, records, where = self._table
        for part in range(first[row], first[row + 1]):
            which, start, end = where[part].tolist()
            yield int(records[part]), which, start, end


class _Chunker:
    """A document begins a row."""

    def __init__(self, parts: _Parts, room: int, extra: int):
        self._parts, self._room = parts, room - extra

    def __call__(self, document: _Document, found: Pieces) -> None:
        if len(found.ends) <= self._room:  # most texts are short
            self._parts.add(document, 0, len(document.text.rstrip()))
            self._parts.end_row()
            return
        cuts, at = _Cuts(document, found), 0
        while True:
            end = cuts.end(at, self._room) if at < cuts.tokens else at
            self._parts.add(document, *cuts.characters(at, end))
            self._parts.end_row()
            at = end
            if at >= cuts.tokens:
                return

    def finish(self) -> None:
        """Nothing is left."""


class _Packer:
    """A document goes on in the row of the one before."""

    def __init__(self, parts: _Parts, room: int, extra: int):
        self._parts, self._extra = parts, extra
        self._room = self._left = room - extra
        self._least = max(1, min(_LEAST, room // 8))
        self._empty: list[_Document] = []

    def __call__(self, document: _Document, found: Pieces) -> None:
        if not len(found.ends) or not document.text.strip():
            self._empty.append(document)
            return
        if len(found.ends) < self._left - self._least:  # most texts are short
            self._parts.add(document, 0, len(document.text.rstrip()))
            self._left -= len(found.ends) + 1 + self._extra
            return
        cuts, at = _Cuts(document, found), 0
        while at < cuts.tokens:
            end = cuts.end(at, self._left, whole_words=self._left < self._room)
            if end > at:
                self._parts.add(document, *cuts.characters(at, end))
                self._left -= end - at + 1 + self._extra
            if end < cuts.tokens or self._left < self._least:
                self._parts.end_row()
                self._left = self._room
            at = end

    def finish(self) -> None:
        """What has no tokens, or cannot be used, has a row of its own, behind all others."""
        self._parts.end_row()
        for document in self._empty:
            self._parts.add(document, 0, len(document.text))
            self._parts.end_row()


class _Cuts:
    """Where a document can be cut. Spaces at its end are left out."""

    def __init__(self, document: _Document, found: Pieces):
        self._length, self._ends = len(document.text.rstrip()), found.ends
        last = int(np.searchsorted(found.ends, self._length)) + 1
        self.tokens = min(last, len(found.ends))
        words = np.flatnonzero(found.word_start[: self.tokens])
        # A comma is a word, too, but none that should begin a row.
        spaced = words[_spaces(document.text)[self._ends[words - 1]]]
        self._words, self._spaced = (np.insert(each, 0, 0) for each in (words, spaced))

    def end(self, at: int, room: int, *, whole_words: bool = False) -> int:
        """The token behind the last word that still fits from token `at` on.

        The next one begins with a space, unless half of the room were lost by it. A word that is
        longer than all the room is cut between two of its characters, or left out (`whole_words`).
        """
        if self.tokens - at <= room:
            return self.tokens
        for starts, least in ((self._spaced, at + room // 2), (self._words, at)):
            last = int(starts[np.searchsorted(starts, at + room, side="right") - 1])
            if last > least:
                return last
        if whole_words:
            return at
        last = at + room  # bytes of one character end at one place
        while last > at and self._ends[last - 1] == self._ends[last]:
            last -= 1
        return last if last > at else at + room

    def characters(self, at: int, end: int) -> tuple[int, int]:
        """From the end of the token before, so that a space goes with the word behind it."""
        start = int(self._ends[at - 1]) if at else 0
        return start, self._length if end >= self.tokens else int(self._ends[end - 1])


def _tokenised(
    source: Source,
    texts: Callable[[dict[str, Any]], Sequence[str]],
    pieces: Callable[[Sequence[str]], Sequence[Pieces]],
) -> Iterator[tuple[_Document, Pieces]]:
    """All documents with their pieces; a record that cannot be used as one without any."""
    waiting: list[_Document] = []
    size, said = 0, time.monotonic()
    for record in range(len(source)):
        try:
            found = [_Document(record, n, text) for n, text in enumerate(texts(source[record]))]
        except Skip:  # told and counted when the row is asked for
            found = [_Document(record, 0, "")]
        waiting += found
        size += sum(len(document.text) for document in found)
        if size >= _AT_ONCE:
            yield from zip(waiting, _pieces(waiting, pieces), strict=True)
            waiting, size = [], 0
        if time.monotonic() - said > _LINE_EVERY:
            said = time.monotonic()
            _log.info("tokenised %d of %d documents", record + 1, len(source))
    yield from zip(waiting, _pieces(waiting, pieces), strict=True)


def _pieces(
    documents: Sequence[_Document], pieces: Callable[[Sequence[str]], Sequence[Pieces]]
) -> list[Pieces]:
    windows = [list(_windows(document.text)) for document in documents]
    found = iter(pieces([text for each in windows for _, text in each]))
    return [_joined([(start, next(found)) for start, _ in each]) for each in windows]


def _joined(windows: Sequence[tuple[int, Pieces]]) -> Pieces:
    if len(windows) == 1:
        (_, found) = windows[0]
        return Pieces(np.maximum.accumulate(found.ends), found.word_start)
    ends = np.concatenate([start + found.ends for start, found in windows])
    # A piece may be of no character, such as the space that SentencePiece puts before a text.
    return Pieces(
        np.maximum.accumulate(ends), np.concatenate([found.word_start for _, found in windows])
    )


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """(start, text) of parts that can be tokenised one by one: each begins with a space."""
    at = 0
    while len(text) - at > _WINDOW:
        space = max(text.rfind(mark, at + 1, at + _WINDOW) for mark in " \n")
        end = space if space > at else at + _WINDOW
        yield at, text[at:end]
        at = end
    yield at, text[at:]


def _spaces(text: str) -> np.ndarray:
    """bool[1 + characters]: True where a space is; nothing is behind the last."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.append(np.isin(codes, _SPACES), False)
