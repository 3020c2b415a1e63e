"""`jsonl:FILE`: one JSON object per line; FILE may be a folder (its *.jsonl) or a pattern.

    {"image": "dogs/1.jpg", "text": "a dog runs"}
    {"image": "<base64>", "text": ["a dog", "an animal"], "id": 17}
    {"image": "2.jpg", "text": "two dogs", "regions": [
        {"box": [10, 20, 50, 40], "text": "a dog", "attributes": ["brown"]}]}       (one line)
    {"text": "only text"}
    {"image": "3.jpg", "label": 4}
    {"images": ["4.jpg", "5.jpg"], "text": "both show dogs", "label": 1}

All other fields are passed on as they are (`objects`, `question`, `answers`: whatever a pipeline or
an evaluator of the user's reads), those of regions too.

A box is x, y, width, height in pixels of the image as a viewer shows it, after EXIF has turned it;
the regions stream's `box_format="xyxy"` or `"unit"` and `exif="stored"` read other boxes. An image
is base64 (also as a data URL) or a path below the file's folder; `jsonl:FILE@DIR` takes paths below
DIR instead. A path that leaves its folder is refused. Of an `image` that is a list the first is
read. The field names of the published X-FM files are read too: `binary` (image), `desc` or
`caption` (a string, a list, or a dict of languages), `elems` with `bb`, `caption` and `attributes`,
`image_id`.

The file is indexed once by line (16 bytes of memory for each) and never loaded; each example is
read when it is wanted.
"""

import json
from typing import Any

from unified_fm import buckets
from unified_fm.data import fields
from unified_fm.data.sections import Sections
from unified_fm.data.skips import Skip
from unified_fm.data.sources import _arguments, _lines, base

_MAX_LINE = 200_000_000


class Source(base.Source):
    """Random access to the lines of one or several files; see the module for the format."""

    def __init__(self, argument: str):
        """Indexes the files.

        Raises:
            FileNotFoundError: no such file, folder or match.
            ValueError: a file that is compressed, or UTF-16.
        """
        parts = _arguments.parse(argument, "jsonl", ("missing",))
        files = _arguments.find(parts, "jsonl", ".jsonl")
        self.problems = [("missing file", path) for path in files.missing]
        self._roots = [parts.root or buckets.path(path).parent for path in files.found]
        self._lines = [_lines.index(path) for path in files.found]
        self._sections = Sections(len(lines.spans) for lines in self._lines)

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for a line that is not a JSON object, or whose image path is refused."""
        which, line = self._sections.locate(index)
        lines = self._lines[which]
        if lines.size(line) > _MAX_LINE:
            raise Skip("oversized record", f"{lines.size(line):,} bytes; at most {_MAX_LINE:,}")
        raw = lines.read(line)
        # As others write whole files, in one line or in many.
        advice = "; is the file one array? Write one JSON object a line"
        advice = advice if not line and raw.lstrip().startswith(b"[") else ""
        try:
            record = json.loads(raw.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError) as error:
            raise Skip("invalid JSON", f"{error}{advice}") from error
        if not isinstance(record, dict):
            found = type(record).__name__
            raise Skip("invalid JSON", f"a line is an object; found {found}{advice}")
        return fields.example_of(record, self._roots[which], index)

    def place(self, index: int) -> str:
        """The file and the line, counted from 1 with the blank ones."""
        which, line = self._sections.locate(index)
        return f"{self._lines[which].file.path}, line {self._lines[which].number(line)}"
