"""`text:FILE`: plain documents; FILE may be a folder (its *.txt, also in folders) or a pattern.

    text:books.txt                      one document a line
    text:wiki/*.txt?by=paragraph        ... between blank lines
    text:novels?by=file                 ... a file, whose path is its `id`

An example is `id` and `text`. Lines and paragraphs are numbered through all files: that number is
the `id`. Blank lines are no documents. UTF-8 is read; a byte that is none becomes a replacement
character. Files are indexed once (16 bytes in memory for each line) and never loaded.
"""

import os
from typing import Any

import numpy as np

from unified_fm import choices
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _arguments, _lines, base
from unified_fm.data.sources._kept import Stamped

_MAX_DOCUMENT = 200_000_000
_BY = ("line", "paragraph", "file")


class Source(base.Source):
    """Random access to the documents; see the module for the format."""

    def __init__(self, argument: str):
        """Finds the documents.

        Raises:
            FileNotFoundError: no such file, folder or match.
            ValueError: another `by`, or a file that is compressed or UTF-16.
        """
        parts = _arguments.parse(argument, "text", ("by", "missing"))
        self._by = choices.check("text: by", parts.options.get("by", "line"), _BY)
        files = _arguments.find(parts, "text", ".txt", deep=True)
        self.problems = [("missing file", path) for path in files.missing]
        folder = _arguments.folder_of(parts.pattern)
        self._names = [os.path.relpath(path, folder) for path in files.found]
        self._files = [Stamped.of(path) for path in files.found] if self._by == "file" else []
        self._lines = [] if self._files else [_lines.index(path) for path in files.found]
        # i64[documents + 1] of each file: the line with which a document begins.
        self._firsts = [self._starts(lines) for lines in self._lines]
        lengths = (len(first) - 1 for first in self._firsts) if self._lines else [1] * len(files[0])
        self._sections = Sections(lengths)

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a document of more than 200 MB."""
        which, number = self._sections.locate(index)
        if self._files:
            file, start = self._files[which], 0
            end, key = file.size, self._names[which]
        else:
            lines = self._lines[which]
            first, last = self._firsts[which][number : number + 2].tolist()
            file, start, end, key = (
                lines.file,
                lines.spans[first, 0],
                lines.spans[last - 1, 1],
                index,
            )
        if end - start > _MAX_DOCUMENT:
            raise Skip("oversized record", f"{end - start:,} bytes; at most {_MAX_DOCUMENT:,}")
        raw = file.read(int(start), int(end))
        if not start and self._files:
            _arguments.refuse_packed(file.path, raw[:8])
            _arguments.refuse_wide(file.path, raw[:2])
        text = raw.decode("utf-8", errors="replace").removeprefix("\ufeff").rstrip("\r\n")
        return {"id": key, "text": text}

    def place(self, index: int) -> str:
        """The file and the line, counted from 1 with the blank ones."""
        which, number = self._sections.locate(index)
        if self._files:
            return self._files[which].path
        lines = self._lines[which]
        return f"{lines.file.path}, line {lines.number(int(self._firsts[which][number]))}"

    def _starts(self, lines: _lines.Lines) -> np.ndarray:
        count = len(lines.spans)
        if self._by == "line" or not count:
            return np.arange(count + 1)
        # A line begins a paragraph if blank ones stand between it and the line before.
        after = np.searchsorted(
            lines.blanks - np.arange(len(lines.blanks)), np.arange(count), "right"
        )
        return np.concatenate([[0], np.flatnonzero(np.diff(after)) + 1, [count]])
