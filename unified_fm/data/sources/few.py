"""`few:COUNT:SOURCE` or `few:SHARE%:SOURCE`: a part of another source, chosen by hash.

    few:30:demo:mnist/train            the first 30 of each class (of `label`)
    few:5%:demo:vqa/train              a twentieth of all records

Which records those are is told by the sha256 of their ids, not by a draw: the same on every machine
and for every seed, and 10 of a class are among its 30. For COUNT the labels of all records are read
once; a record without one is left out. Examples, classes and places are those of the source.
"""

import hashlib
import re
from typing import Any

from unified_fm.data import selection
from unified_fm.data import source as sources
from unified_fm.data.skips import Skip
from unified_fm.data.sources import base

_FORM = re.compile(r"(\d+|\d+(?:\.\d+)?%):(.+)", re.DOTALL)


class Source(base.Source):
    """The chosen records of another source, in its order."""

    def __init__(self, argument: str):
        """Opens the source and chooses.

        Raises:
            ValueError: another form, no labels, or a class with too few of them.
        """
        match = _FORM.fullmatch(argument)
        if match is None:
            raise ValueError(
                f"few:{argument} is neither few:COUNT:SOURCE (few:30:folder:DIR) nor few:SHARE%:"
                "SOURCE (few:5%:jsonl:FILE)"
            )
        self._source = sources.open_source(match[2])
        self.class_names = self._source.class_names
        self.problems = self._source.problems
        self.origin = self._source.origin or match[2]
        amount = match[1]
        if amount.endswith("%"):
            self._chosen = _share(self._source, float(amount[:-1]) / 100)
        else:
            self._chosen = _of_each_class(self._source, int(amount), argument)
        if not self._chosen:
            raise ValueError(f"few:{argument}: of {len(self._source)} records none is left")
        self.lost = selection.lost_of(self._source, len(self._chosen))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = self._chosen[index]
        return {"id": number, **self._source[number]}  # as a slice numbers them

    def place(self, index: int) -> str:
        """As the source says."""
        return self._source.place(self._chosen[index])


def digest(key: Any) -> bytes:
    """What decides about a record of this id."""
    return hashlib.sha256(str(key).encode("utf-8", "surrogatepass")).digest()


def _share(source: base.Source, share: float) -> list[int]:
    """The records whose hash is in the first part of all hashes: as many as the share, rounded."""
    if not 0 < share <= 1:
        raise ValueError(f"a share of records is above 0 and at most 100 %, not {100 * share:g} %")
    order = sorted(range(len(source)), key=lambda i: digest(selection.value(source, i, "id")))
    return sorted(order[: round(share * len(source))])


def _of_each_class(source: base.Source, count: int, argument: str) -> list[int]:
    found: dict[Any, list[tuple[bytes, int]]] = {}
    for index in range(len(source)):
        try:
            example = source[index]
        except Skip:
            continue
        label = example.get("label")
        if isinstance(label, int | str):
            found.setdefault(label, []).append((digest(example.get("id", index)), index))
        elif label is not None:
            raise ValueError(
                f"few:{argument}: record {index} has the label {label!r}; classes are whole numbers"
                " or names. Of records without classes take a share: few:5%:SOURCE"
            )
    if not found:
        raise ValueError(
            f"few:{argument}: no record has a label; take a share of them: few:5%:SOURCE"
        )
    for label, members in sorted(found.items(), key=lambda item: str(item[0])):
        if len(members) < count:
            raise ValueError(
                f"few:{argument}: class {label!r} has {len(members)} records; at most that many of"
                " each class can be taken"
            )
    return sorted(i for members in found.values() for _, i in sorted(members)[:count])
