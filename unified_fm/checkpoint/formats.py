"""Our own checkpoints of earlier formats: which names have changed since.

A checkpoint says of which format it is. One of an earlier format is read by the names of today: the
renames of every format since are applied in turn, to the parameters and to what mirrors them
(moments, averages). A change of names is a higher `FORMAT` and a few rows; nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm.convert.patterns import compile_ours, write_ours
from unified_fm.convert.rows import Row
from unified_fm.convert.table import flatten, unflatten

FORMAT = 1

# Format n -> what the next one renamed: Row(our path there, our path in format n).
RENAMES: dict[int, Sequence[Row]] = {}


def check(place: Any, version: Any) -> None:
    """Refuses a checkpoint of a format that this version of the library does not know.

    Raises:
        ValueError: with both numbers.
    """
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise ValueError(
            f"{place} is of format {version!r}, this version of unified_fm reads formats 1 to "
            f"{FORMAT}: use the version that wrote it, or a newer one"
        )


def newer(tree: Mapping, version: int) -> dict[str, Any]:
    """A tree of anything by the names of format `version`, by those of today."""
    for number in range(version, FORMAT):
        tree = _renamed(tree, [(row.spellings[0], row.paths[0]) for row in RENAMES[number]])
    return dict(tree)


def older(tree: Mapping, version: int) -> dict[str, Any]:
    """A tree by the names of today, by those of format `version`."""
    for number in reversed(range(version, FORMAT)):
        tree = _renamed(tree, [(row.paths[0], row.spellings[0]) for row in RENAMES[number]])
    return dict(tree)


def _renamed(tree: Mapping, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return unflatten({_rename(name, pairs): leaf for name, leaf in flatten(tree).items()})


def _rename(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The name with its end replaced by the first pair whose left side is that end.

    A moment is called `opt_state.0.mu.text.layer_00...`, its parameter `text/layer_00/...`.
    """
    separator = "." if "." in name else "/"
    parts = name.split(separator)
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        for old, new in pairs:
            found = compile_ours(old).regex.fullmatch(end)
            if found:
                layer = int(found["i"]) if "{i}" in old else None
                return separator.join([*parts[:start], *write_ours(new, layer).split("/")])
    return name
