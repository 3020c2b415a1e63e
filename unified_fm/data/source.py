"""Opens a source from its string: `PREFIX:ARGUMENTS`, several joined by "+"."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import plugins
from unified_fm.data.sections import Sections
from unified_fm.data.sources.base import Source

_JOIN = re.compile(r"\+(?=([A-Za-z_][\w.]*):)")


def open_source(spec: str | Sequence[str]) -> Source:
    """Opens "jsonl:FILE", "array_record:STEM+folder:DIR", or a list of such strings.

    Raises:
        ValueError: not of this form, an unknown prefix (with the choices and the nearest one), or
            no record in it.
        TypeError: a source of the user's that lacks a part of the contract.
    """
    parts = [spec] if isinstance(spec, str) else list(spec)
    parts = [part for entry in parts for part in _split(entry)]
    if not parts:
        raise ValueError("a stream needs a source; found an empty list")
    opened = [_open(part) for part in parts]
    for part, source in zip(parts, opened, strict=True):
        if not len(source):
            raise ValueError(f"source {part!r} has 0 records")
    return opened[0] if len(opened) == 1 else Concatenation(opened)


def name_record(
    source: Source, spec: str | Sequence[str], index: int, example: Mapping[str, Any] | None = None
) -> str:
    """Names a record in a message: its number, its file and, where it could be read, its image."""
    place = source.place(index)
    image = (example or {}).get("image")
    if isinstance(image, str | os.PathLike):
        place = f"{place}, image {image}" if place else f"image {image}"
    return f"record {index} of {spec}" + (f" ({place})" if place else "")


class Concatenation(Source):
    """Several sources one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = list(sources)
        self._sections = Sections(map(len, sources))
        self.problems = [problem for source in sources for problem in source.problems]
        self.lost = sum(source.lost for source in sources)

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        which, index = self._sections.locate(index)
        example = self.sources[which][index]
        # Two files may both count their ids from 0: different records must not share one.
        if isinstance(example.get("id"), int | str):
            example = {**example, "id": f"{which}/{example['id']}"}
        return example

    def place(self, index: int) -> str:
        """As the source that the record is in says."""
        which, index = self._sections.locate(index)
        return self.sources[which].place(index) or f"part {which + 1}, {index}"


def _split(spec: str) -> list[str]:
    """Cuts at each "+" that a prefix follows: file names and TFDS splits may contain one."""
    known, cuts = plugins.names("data.sources"), []
    for match in _JOIN.finditer(spec):
        part = spec[cuts[-1] + 1 if cuts else 0 : match.end(1)]
        # "refcoco+_val.json:val": what looks like a dotted module is the rest of a file's name.
        is_file = os.path.exists(part.partition(":")[2])
        if not is_file and (match[1] in known or "." in match[1]):
            cuts.append(match.start())
    edges = zip([-1, *cuts], [*cuts, len(spec)], strict=True)
    return [spec[start + 1 : end] for start, end in edges]


def _open(part: str) -> Source:
    prefix, colon, arguments = part.partition(":")
    if not colon or not arguments:
        known = ", ".join(f"{name}:..." for name in plugins.names("data.sources"))
        raise ValueError(f"source {part!r} is not of the form PREFIX:ARGUMENTS; possible: {known}")
    opened = plugins.load("data.sources", prefix)(arguments)
    plugins.check_contract(opened, Source, f"source {prefix!r}")
    return opened
