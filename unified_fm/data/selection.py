"""Which records of a source are meant: what may stand in brackets behind its string.

    SOURCE[:90%]  SOURCE[90%:]              the first nine tenths of its records, and the others
    SOURCE[1000:2000]  SOURCE[-500:]        by number, as Python slices
    SOURCE[:95% by hash(id)]                those whose id hashes into the first 95 %, for training
    SOURCE[95%: by hash(id)]                ... and all others, for validation
    SOURCE[:95% by hash(image)]             the same, and records of one image stay together

By hash, a record is on the same side on every machine and for every seed, wherever it stands and
whatever is added to the source; the shares are right on average (of 10,000 records to within a few
dozen). A record that brings no id has its number for one, which changes where records are put in
before it: then another field must tell them apart, and the log says so. For a hash the source is
read once, record by record, when it is opened. Several brackets may follow each other. A record
keeps the id that it has in the source.
"""

import functools
import hashlib
import logging
import re
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from unified_fm.data.identity import bytes_of
from unified_fm.data.skips import Skip
from unified_fm.data.sources.base import Source

_log = logging.getLogger(__name__)

_EDGE = r"-?\d+(?:\.\d+)?%?"
_BRACKETS = re.compile(r"(?P<spec>.+)\[(?P<inside>[^\[\]]*)\]", re.DOTALL)
_INSIDE = re.compile(rf"\s*({_EDGE})?\s*:\s*({_EDGE})?\s*(?:by\s+hash\(\s*(\w+)\s*\)\s*)?")
_MEANT = re.compile(r":|hash")  # brackets with any of it are no part of a file's name
_POSSIBLE = "possible: [:90%], [90%:], [1000:2000], [:95% by hash(id)], [95%: by hash(id)]"
_BITS = 63  # of a hash, so that all shares are u64
_TOLD_EVERY = 20.0  # seconds between two lines about how far reading has come


class Chosen(NamedTuple):
    """A source's string and what stands in the brackets behind it.

    Attributes:
        spec: what stands before the brackets.
        start, end: numbers of records or, with "%", shares; "" for the first or the last.
        field: whose hash is meant; "": the place.
    """

    spec: str
    start: str
    end: str
    field: str

    def __str__(self) -> str:
        by = f" by hash({self.field})" if self.field else ""
        return f"{self.spec}[{self.start}:{self.end}{by}]"


def read(spec: str) -> Chosen | None:
    """Takes a source's string apart; None if it does not end in such brackets.

    Raises:
        ValueError: the brackets are meant so, and not understood.
    """
    found = _BRACKETS.fullmatch(spec)
    if found is None or not _MEANT.search(found["inside"]):
        return None
    inside = _INSIDE.fullmatch(found["inside"])
    if inside is None:
        raise ValueError(f"source {spec!r} ends in [{found['inside']}]; {_POSSIBLE}")
    start, end, field = (part or "" for part in inside.groups())
    if field and any(edge and not edge.endswith("%") for edge in (start, end)):
        raise ValueError(
            f"source {spec!r}: by hash only shares can be had, such as [:95% by hash({field})],"
            " not numbers of records"
        )
    if any("." in edge and not edge.endswith("%") for edge in (start, end)):
        raise ValueError(f"source {spec!r}: records are counted in whole numbers; {_POSSIBLE}")
    return Chosen(found["spec"], start, end, field)


class Selected(Source):
    """The chosen records of a source, in its order; it holds 4 bytes for each, or none by place."""

    def __init__(self, source: Source, chosen: Chosen):
        """Chooses, by hash after reading the source.

        Raises:
            ValueError: none is left, or they lie beyond the end; a record lacks the field.
        """
        self._source = source
        self.origin = source.origin or chosen.spec
        self.class_names = source.class_names
        self.problems = source.problems
        self._numbers = _by_hash(source, chosen) if chosen.field else _by_place(source, chosen)
        if not len(self._numbers):
            raise ValueError(f"source {str(chosen)!r}: of {len(source):,} records none is left")
        self.lost = lost_of(source, len(self._numbers))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self._numbers[index])
        return {"id": number, **self._source[number]}

    def place(self, index: int) -> str:
        """As the source says."""
        number = int(self._numbers[index])
        return self._source.place(number) or f"its record {number}"


def lost_of(source: Source, records: int) -> int:
    """About how many of `records` that are made of a source's are in files that it has lost."""
    return -(-source.lost * records // max(len(source), 1))


def value(source: Source, index: int, field: str) -> Any:
    """A field of a record; its number in place of an id that it lacks, or if it cannot be read.

    Raises:
        ValueError: another field, which it lacks.
    """
    try:
        example = source[index]
    except Skip:  # a record that cannot be read is skipped when it is asked for
        return index
    if example.get(field) is not None:
        return example[field]
    if field != "id":
        place = source.place(index)
        raise ValueError(
            f"hash({field}): record {index}{f' ({place})' if place else ''} has no {field!r}, but"
            f" {', '.join(sorted(example))}"
        )
    return index


def _by_place(source: Source, chosen: Chosen) -> range:
    count = len(source)
    start, end = _edge(chosen.start or "0", count), _edge(chosen.end or "100%", count)
    if not 0 <= start <= end <= count:
        raise ValueError(
            f"source {str(chosen)!r} means the records from {start:,} to {end:,}, and there are"
            f" {count:,}"
        )
    return range(start, end)


def _edge(text: str, count: int) -> int:
    """A number of records; of a share the whole part, so that [:x%] and [x%:] meet."""
    if text.endswith("%"):
        found = int(abs(Fraction(text[:-1])) * count / 100)
        return count - found if text.startswith("-") else found
    return int(text) + (count if text.startswith("-") else 0)


def _by_hash(source: Source, chosen: Chosen) -> Sequence[int] | np.ndarray:
    start, end = (Fraction((text or default)[:-1]) / 100
                  for text, default in ((chosen.start, "0%"), (chosen.end, "100%")))  # fmt: skip
    if not 0 <= start <= end <= 1:
        raise ValueError(f"source {str(chosen)!r}: shares lie between 0% and 100%, in this order")
    hashes, numbered = np.empty(len(source), np.uint64), 0
    began = time.monotonic()
    for index in range(len(source)):
        found = value(source, index, chosen.field)
        numbered += chosen.field == "id" and isinstance(found, int) and found == index
        key = bytes_of(chosen.field, found)
        digest = hashlib.blake2b(key, digest_size=8, person=b"split").digest()
        hashes[index] = int.from_bytes(digest, "little") >> (64 - _BITS)
        if time.monotonic() - began > _TOLD_EVERY:
            began = time.monotonic()
            _log.info("%s: %s of %s records read", chosen, f"{index:,}", f"{len(source):,}")
    if 2 * numbered > len(source):
        _warn_of_numbers(chosen.spec, numbered, len(source))
    low, high = (int(share * 2**_BITS) for share in (start, end))
    within = np.flatnonzero((hashes >= low) & (hashes < high))
    return within.astype(np.uint32 if len(source) <= 2**32 else np.uint64)


@functools.cache  # training opens a side, and every evaluator the other
def _warn_of_numbers(spec: str, numbered: int, records: int) -> None:
    _log.warning(
        "%s: hash(id) of %s of %s records is of their numbers, as where records bring no id: each"
        " stays on its side only while none is put in or taken out before it. hash(image), or a"
        " hash of another field of theirs, does not depend on that",
        *(spec, f"{numbered:,}", f"{records:,}"),
    )
