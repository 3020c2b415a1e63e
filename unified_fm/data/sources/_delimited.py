"""Tables as text, a row a record: what `csv:` and `tsv:` have in common."""

import contextlib
import json
import logging
import math
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from unified_fm import buckets, choices
from unified_fm.data import official
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _arguments, _cells, _columns, _lines, base

_log = logging.getLogger(__name__)

_QUOTE, _BREAK, _RETURN = ord('"'), ord("\n"), ord("\r")
_LISTS = ("regions", "elems", "images", "objects", "sentences", "answers", "box")
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")
_BOM = 3  # bytes
_SIGNS = {",": "csv:", "\t": "tsv:", ";": "?delimiter=;", "|": "?delimiter=|"}  # how it is said


class Delimited(base.Source):
    """Random access to the rows of one or several files.

    Attributes:
        form: the name of the source.
        delimiter: between the cells of a row.
    """

    form: ClassVar[str]
    delimiter: ClassVar[str]

    def __init__(self, argument: str):
        """Finds the rows.

        Raises:
            FileNotFoundError: no such file, folder or match.
            ValueError: columns of which none is known, other columns in another file, a quote that
                nothing closes, a file that is compressed or UTF-16.
        """
        options = (*_columns.OPTIONS, "quotes", "delimiter", "escape")
        parts = _arguments.parse(argument, self.form, options)
        where = f"{self.form}:{argument}"
        files = _arguments.find(parts, self.form, f".{self.form}")
        self.problems = [("missing file", path) for path in files.missing]
        self._form = _form(parts.options, self.delimiter, where)
        self._roots = [parts.root or buckets.path(path).parent for path in files.found]
        self._tables = [self._index(path) for path in files.found]
        headers = [self._header(table) for table in self._tables]
        for table, header in zip(self._tables, headers, strict=True):
            _columns.same(headers[0], header, table.file.path, files.found[0])
        self._headers = headers
        self._columns = _columns.find(headers[0], parts.options, where)
        self.class_names = self._columns.class_names
        self._sections = Sections(max(0, len(table.spans) - 1) for table in self._tables)

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a row that does not fit the header, or whose image path is refused."""
        which, row = self._sections.locate(index)
        table, header = self._tables[which], self._headers[which]
        if (size := table.size(row + 1)) > _cells.MAX_ROW:
            raise Skip("oversized record", f"{size:,} bytes; at most {_cells.MAX_ROW:,}")
        text = table.read(row + 1).decode("utf-8", errors="replace")
        cells = self._form.read(text)
        if len(cells) != len(header):
            found = f"{len(cells)}; the header has {len(header)}"
            if not self._form.escape and f"\\{self._form.delimiter}" in text:
                found += "; if a \\ makes the sign behind it a part of the cell, say ?escape=\\"
            raise Skip("wrong number of columns", found)
        rows = zip(header, cells, strict=True)
        given: dict[str, Any] = {name: cell for name, cell in rows if name and cell}
        for field in ("id", "label"):
            for name in self._columns.names.get(field, ()):
                if name in given:
                    given[name] = _number(given[name], field)
        for name in {*_LISTS, *self._columns.names.get("regions", ())}:
            if isinstance(cell := given.get(name), str) and cell.lstrip().startswith("["):
                given[name] = _list(name, cell)
        return self._columns.example_of(given, self._roots[which], index)

    def place(self, index: int) -> str:
        """The file and the line, counted from 1; of a row of several lines the first."""
        which, row = self._sections.locate(index)
        table = self._tables[which]
        return f"{table.file.path}, line {self._line(table, row + 1)}"

    def _index(self, path: str) -> _lines.Lines:
        form, quotes = self._form, _Quotes(self._form.delimiter)
        if not form.quoted and not form.escape:
            return _lines.index(path)
        table = _lines.index(path, quotes.breaks)
        if quotes.odd or quotes.inside or (form.escape and len(table.spans)):
            # Quotes within a cell, closed by nothing, or escaped: it is read cell by cell.
            found = _walk(path, form, f"{self.form}:{path}")
            table = _lines.index(path, lambda start, block: _between(found, start, len(block)))
        elif quotes.spanning:
            _log.info(
                "%s has cells of several lines, in quotes. If a quote is an ordinary character in"
                " it, say so: %s:%s?quotes=none",
                *(path, self.form, path),
            )
        return table

    def _header(self, table: _lines.Lines) -> list[str]:
        path = table.file.path
        if not len(table.spans):
            raise official.WrongFile(f"{path} is empty: its first line has the names of the fields")
        line = table.read(0).decode("utf-8", "replace")
        try:
            names = [name.strip() for name in self._form.read(line)]
        except Skip as skip:
            raise official.WrongFile(f"{path}, line 1: {skip}") from skip
        for name in names:
            if name and names.count(name) > 1:
                raise official.WrongFile(f"{path}: two columns are called {name!r}")
        _refuse_joined(path, line, names, self._form.delimiter)
        return names

    def _line(self, table: _lines.Lines, row: int) -> int:
        return _lines.number_at(table.file.path, int(table.spans[row, 0]))


class _Quotes:
    """Line breaks outside quotes, for files in which each quote opens or closes a field."""

    def __init__(self, delimiter: str):
        self._before = [ord(delimiter), _BREAK, _RETURN, _QUOTE]  # what an opening quote follows
        self.inside, self._last, self.odd, self.spanning = 0, _BREAK, False, False

    def breaks(self, offset: int, block: bytes) -> np.ndarray:
        """As `_lines.Breaks`; looks at every block of a file, in order."""
        data = np.frombuffer(block, np.uint8)
        quotes, breaks = np.flatnonzero(data == _QUOTE), np.flatnonzero(data == _BREAK)
        opening = quotes[self.inside :: 2]
        before = data[opening - 1]
        if len(opening) and opening[0] == 0:
            before[0] = self._last
        # "Naive" quotes: the third byte of a byte order mark stands before the first one.
        first = (opening == _BOM) & (offset == 0) & block.startswith(b"\xef\xbb\xbf")
        self.odd |= not (np.isin(before, self._before) | first).all()
        outside = (np.searchsorted(quotes, breaks) + self.inside) % 2 == 0
        self.spanning |= not outside.all()
        self.inside = (self.inside + len(quotes)) % 2
        self._last = int(data[-1])
        return breaks[outside]


def _form(options: Mapping[str, str], delimiter: str, where: str) -> _cells.Form:
    """How the cells are written. Raises ValueError: an option that says nothing of the kind."""
    delimiter = options.get("delimiter", delimiter)
    if len(delimiter) != 1 or not delimiter.isascii():
        raise ValueError(f"{where}: a delimiter is one ASCII character")
    quotes = choices.check(f"{where}: quotes", options.get("quotes", "fields"), ("fields", "none"))
    escape = options.get("escape", "")
    if "escape" in options and (
        len(escape) != 1 or not escape.isascii() or escape in delimiter + '"'
    ):
        raise ValueError(
            f"{where}: escape is {escape!r}; it is one ASCII character, neither the delimiter nor a"
            " quote: ?escape=\\"
        )
    return _cells.Form(delimiter, quotes == "fields", escape)


def _refuse_joined(path: str, line: str, names: Sequence[str], delimiter: str) -> None:
    """Refuses a header whose names are joined by another sign. Raises official.WrongFile."""
    for sign, said in _SIGNS.items():
        parts = [part.strip().strip('"') for part in line.split(sign)]
        alone = len(names) == 1 and len(parts) > 1
        if sign != delimiter and (alone or (not _columns.known(names) and _columns.known(parts))):
            many = "one column" if len(names) == 1 else f"{len(names)} columns"
            raise official.WrongFile(
                f"{path} has {many}, {official.shown(names[0])}, where cells end at {delimiter!r};"
                f" if they end at {sign!r}: {said}"
            )


def _walk(path: str, form: _cells.Form, source: str) -> np.ndarray:
    """i64[n]: the line breaks that end a row, where quotes stand within fields, or escapes.

    Raises:
        official.WrongFile: nothing closes a quote; `source` is how the table is named, to say how
            it may be read.
    """
    found = []
    with _whole(path) as data:
        position = _BOM if data[:_BOM] == b"\xef\xbb\xbf" else 0
        while position < len(data):
            match = form.of_bytes.match(data, position)
            if match is None:
                raise official.WrongFile(
                    f"{path}, line {_lines.number_at(path, position)}: a quote opens a cell and"
                    f" nothing closes it. If quotes are ordinary characters there:"
                    f" {source}?quotes=none" + _escaped(data, position, source, form)
                )
            if match["end"] == b"\n":
                found.append(match.end() - 1)
            position = match.end()
    return np.array(found, np.int64)


def _escaped(data: Any, position: int, source: str, form: _cells.Form) -> str:
    """That quotes may be escaped, where it looks like it; else ""."""
    if form.escape or data.find(_cells.ESCAPED.encode(), position) < 0:
        return ""
    return f". If {_cells.ESCAPED} stands for a quote: {source}?escape=\\"


@contextlib.contextmanager
def _whole(path: str) -> Iterator[Any]:
    """All bytes of a file; of one in a bucket in memory."""
    if buckets.holds(path):
        yield buckets.read(path)
        return
    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        yield data


def _between(found: np.ndarray, start: int, length: int) -> np.ndarray:
    first, last = np.searchsorted(found, [start, start + length])
    return found[first:last] - start


def _number(cell: str, field: str) -> int | float | str:
    """A number that is written as one; an id of other digits ("007") stays as it is."""
    if _WHOLE.fullmatch(cell):
        return int(cell)
    try:
        value = float(cell) if field == "label" else math.nan
    except ValueError:
        return cell
    return value if math.isfinite(value) else cell  # a class may be called "nan" or "infinity"


def _list(name: str, cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise Skip("invalid JSON", f"in the column {name!r}: {error}") from error
