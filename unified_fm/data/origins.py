"""Which parts of a mixture may have records in common, told by their strings alone.

Two parts are of one source if their strings name the same one, however its local paths are spelt
and whatever brackets stand behind it. That files of two patterns overlap, or that one is a copy of
another, is not known here.
"""

import itertools
import os
import re
from collections.abc import Sequence
from fractions import Fraction

from unified_fm.data import selection
from unified_fm.data.selection import Chosen

# Prefixes whose sources read [:90%] themselves, and where those stand: `SPLIT[...][:FOLDER]`.
OWN_SLICES = {"tfds": re.compile(r"(?P<split>[^+]+:[\w.-]+)\[(?P<inside>[^\[\]]*)\](?P<rest>:.+)?")}
_FEW = re.compile(r"few:[^:]+:(?P<spec>.+)", re.DOTALL)
_PIECES = re.compile(r"(\w+://[^:@?]*|[:@?])")  # addresses, and what stands between paths


def key(spec: str) -> str:
    """The string of a source with all its local paths spelt one way, to be compared."""
    prefix, _, arguments = spec.partition(":")
    pieces = _PIECES.split(arguments)
    pieces[::2] = [os.path.realpath(piece) if piece else "" for piece in pieces[::2]]
    return ":".join([prefix, "".join(pieces)])


def shared(parts: Sequence[str]) -> tuple[str, str] | None:
    """The first two parts that may have a record in common; None if no two can have one.

    Slices of one source that lie apart whatever its length is, such as `[:40%]` and `[60%:]`, have
    none.
    """
    taken: dict[str, list[tuple[str, list[Chosen]]]] = {}
    for part in parts:
        spec, brackets = _apart(part)
        others = taken.setdefault(key(spec), [])
        for other, theirs in others:
            if _may_meet(brackets, theirs):
                return other, part
        others.append((part, brackets))
    return None


def _apart(part: str) -> tuple[str, list[Chosen]]:
    """The source that a part takes its records from, and the brackets behind it, in their order."""
    if match := _FEW.fullmatch(part):
        return _apart(match["spec"])
    prefix, _, arguments = part.partition(":")
    if os.path.exists(arguments):  # as it is opened
        return part, []
    chosen = _read(part)
    if prefix in OWN_SLICES and not (chosen and chosen.field):
        own = OWN_SLICES[prefix].fullmatch(arguments)
        if own is None:
            return part, []
        spec = f"{prefix}:{own['split']}{own['rest'] or ''}"
        chosen = _read(f"{spec}[{own['inside']}]")
        return spec, [chosen] if chosen else []
    if chosen is None:
        return part, []
    spec, before = _apart(chosen.spec)
    return spec, [*before, chosen]


def _read(part: str) -> Chosen | None:
    try:
        return selection.read(part)
    except ValueError:  # said when it is opened; or TFDS's [:1shard]
        return None


def _may_meet(one: Sequence[Chosen], other: Sequence[Chosen]) -> bool:
    for mine, theirs in itertools.zip_longest(one, other):
        if mine is None or theirs is None:
            return True
        same = mine.field == theirs.field
        if same and (_before(mine.end, theirs.start) or _before(theirs.end, mine.start)):
            return False
        if (mine.start, mine.end, mine.field) != (theirs.start, theirs.end, theirs.field):
            return True
    return True


def _before(end: str, start: str) -> bool:
    """Whether the records up to one edge lie before those from the other, whatever their number."""
    if not end or not start or end.endswith("%") != start.endswith("%"):
        return False
    first, second = (Fraction(edge.rstrip("%")) for edge in (end, start))
    return (end[0] == "-") == (start[0] == "-") and first <= second
