"""The items of a command line: images by name, and JSON Lines of files or of standard input."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unified_fm.data import fields
from unified_fm.data.skips import Skip

_LINES = (".jsonl", ".ndjson")


class Record(NamedTuple):
    """One item.

    Attributes:
        id: the record's own, the path of an image, or FILE:LINE.
        place: where it stands, for messages.
        fields: `image`, `text`, ...; as the source `jsonl` gives them.
        problem: why there are none; "" where there are.
    """

    id: Any
    place: str
    fields: dict[str, Any]
    problem: str = ""


def read(files: Sequence[str]) -> Iterator[Record]:
    """The items of all files, in order; "-" is standard input."""
    for name in files:
        if name == "-":
            yield from _lines("-", sys.stdin, Path.cwd())
        elif name.lower().endswith(_LINES):
            with open(name, encoding="utf-8", errors="replace") as lines:
                yield from _lines(name, lines, Path(name).parent)
        else:
            yield Record(name, name, {"image": name})


def _lines(name: str, lines: Iterable[str], root: Path) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place, own = f"{name}:{number}", None
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise Skip("invalid JSON", f"a line is an object; found {type(record).__name__}")
            own = record.get("id", record.get("image_id"))
            example = fields.example_of(record, root, number)
            yield Record(place if own is None else own, place, example)
        except (ValueError, RecursionError) as error:
            yield Record(place if own is None else own, place, {}, f"invalid JSON: {error}")
        except Skip as skip:
            problem = f"{skip.reason}: {skip.detail}" if skip.detail else skip.reason
            yield Record(place if own is None else own, place, {}, problem)
