"""Opens a source from its string: `PREFIX:ARGUMENTS`, several joined by "+".

Behind it, in brackets, may stand which of its records are meant; see `data/selection.py`:

    jsonl:pairs.jsonl[:90%]
    jsonl:pairs.jsonl[1000:2000]
    jsonl:pairs.jsonl[:95% by hash(id)]
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import plugins
from unified_fm.data import origins, selection
from unified_fm.data.sections import Sections
from unified_fm.data.sources.base import Source

_log = logging.getLogger(__name__)

_JOIN = re.compile(r"\+(?=([A-Za-z_][\w.]*):)")


def open_source(spec: str | Sequence[str]) -> Source:
    """Opens "jsonl:FILE", "array_record:STEM+folder:DIR", or a list of such strings.

    Raises:
        ValueError: not of this form, an unknown prefix (with the choices and the nearest one), or
            no record in it.
        TypeError: a source of the user's that lacks a part of the contract.
    """
    parts = [part for entry in entries(spec) for part in entry]
    if not parts:
        raise ValueError("a stream needs a source; found an empty list")
    opened = [_open(part) for part in parts]
    for part, source in zip(parts, opened, strict=True):
        if not len(source):
            raise ValueError(f"source {part!r} has 0 records")
    return opened[0] if len(opened) == 1 else Concatenation(opened, parts)


def entries(spec: str | Sequence[str]) -> list[list[str]]:
    """The strings of the sources that a mixture weighs: each entry of a list, or each joined one.

    An entry of a list may join several strings, which are weighed as one.
    """
    if isinstance(spec, str):
        return [[part] for part in _split(spec)]
    return [_split(entry) for entry in spec]


def of_entries(spec: str | Sequence[str], source: Source) -> list[Source]:
    """The source of each of `entries(spec)`, of which `source` was opened."""
    if not isinstance(source, Concatenation):
        return [source]
    opened, found = iter(source.sources), []
    for entry in entries(spec):
        joined = [next(opened) for _ in entry]
        found.append(joined[0] if len(joined) == 1 else Concatenation(joined, entry))
    return found


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
    """Several sources one after the other, opened from the strings `parts`.

    Two files may both count their ids from 0, so an id is told with the number of its source: of
    the first one where several read the same records, so that a record met twice has one id. So
    may two sets of classes: where their names differ, a label is its name's number among all.
    """

    def __init__(self, sources: Sequence[Source], parts: Sequence[str]):
        self.sources = list(sources)
        taken = [
            origins.key(source.origin or part) for source, part in zip(sources, parts, strict=True)
        ]
        self._numbers = [taken.index(key) for key in taken]
        self._repeated = {number for number in self._numbers if self._numbers.count(number) > 1}
        self._sections = Sections(map(len, sources))
        self.class_names, self._labels = _joined_classes([each.class_names for each in sources])
        if any(self._labels):
            _log.info(
                "%s: classes of other names are numbered together, %d in all: %s",
                *("+".join(parts), len(self.class_names), ", ".join(self.class_names)[:200]),
            )
        self.problems = [problem for source in sources for problem in source.problems]
        self.lost = sum(source.lost for source in sources)

    def __len__(self) -> int:
        return len(self._sections)

    def __getitem__(self, index: int) -> dict[str, Any]:
        which, index = self._sections.locate(index)
        number, example = self._numbers[which], self.sources[which][index]
        if number in self._repeated:
            example = {"id": index, **example}  # a slice of it has numbered its records so, too
        if isinstance(example.get("id"), int | str):
            example = {**example, "id": f"{number}/{example['id']}"}
        labels, label = self._labels[which], example.get("label")
        if isinstance(label, int) and 0 <= label < len(labels):
            example = {**example, "label": labels[label]}
        return example

    def place(self, index: int) -> str:
        """As the source that the record is in says."""
        which, index = self._sections.locate(index)
        return self.sources[which].place(index) or f"part {which + 1}, {index}"


def _joined_classes(parts: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], list[list[int]]]:
    """The names of all classes, and for each part their numbers by its own labels.

    No numbers where all are numbered alike, or where a part has no names.
    """
    different = list(dict.fromkeys(tuple(names) for names in parts if names))
    if len(different) < 2:
        return (different[0] if different else ()), [[] for _ in parts]
    known = dict.fromkeys(name for names in different for name in names)
    numbers = {name: number for number, name in enumerate(known)}
    return tuple(known), [[numbers[name] for name in names] for names in parts]


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
    chosen = None if os.path.exists(arguments) else selection.read(part)
    if chosen is not None and (chosen.field or prefix not in origins.OWN_SLICES):
        return selection.Selected(_open(chosen.spec), chosen)
    opened = plugins.load("data.sources", prefix)(arguments)
    plugins.check_contract(opened, Source, f"source {prefix!r}")
    return opened
