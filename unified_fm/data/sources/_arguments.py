"""What stands behind the colon of a source of files: `PATTERN[?OPTION=VALUE&...][@IMAGES]`.

PATTERN is a file, a folder, a glob pattern, or has braces as the shell reads them:
`{00000..00099}` and `{train,more}`. Files that braces name, or that `-00000-of-00004` in the name
of another promises, must be there.
"""

import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm import buckets, choices
from unified_fm.data import official

_OPTIONS = re.compile(r"\?(\w+=[^?&]*(?:&\w+=[^?&]*)*)$")
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<words>[^{}]*,[^{}]*))\}")
_NUMBERED = re.compile(r"-(\d{5,})-of-(\d{5,})(\.\w+)$")
_MOST = 5_000_000  # files that braces may name
_NAMED = 3  # missing files in a message
_FOREIGN = re.compile(r"(pipe|https?|ftp|hdfs):", re.IGNORECASE)
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}
_WIDE = (b"\xff\xfe", b"\xfe\xff")


class Argument(NamedTuple):
    """An argument, taken apart.

    Attributes:
        pattern: of files.
        options: those given.
        root: the folder that image paths are below, as `buckets.path` has it; None where none is
            given.
    """

    pattern: str
    options: Mapping[str, str]
    root: Any


class Files(NamedTuple):
    """The files of a pattern, in order, and those that should be there and are not."""

    found: list[str]
    missing: list[str]


def parse(text: str, form: str, options: Collection[str] = ()) -> Argument:
    """Takes `PATTERN[?OPTION=VALUE&...][@IMAGES]` apart; `form` is the source's prefix.

    Raises:
        ValueError: an unknown option, with the possible ones.
        FileNotFoundError: there is no such folder of images.
    """
    if _FOREIGN.match(text):
        raise ValueError(
            f"{form}:{text}: files of a disk are read; no program is run and nothing is downloaded"
        )
    path, at, root = text.rpartition("@")
    if not at or buckets.exists(text):
        path, root = text, ""
    elif not buckets.isdir(root):
        raise FileNotFoundError(f"{form}:{text}: {root!r} after the @ is no folder")
    given = {}
    if (match := _OPTIONS.search(path)) and not buckets.exists(path):
        path = path[: match.start()]
        for pair in match[1].split("&"):
            name, _, value = pair.partition("=")
            given[choices.check(f"{form}:{text}: the option", name, sorted(options))] = value
    return Argument(path, given, buckets.path(root) if root else None)


def find(argument: Argument, form: str, ending: str, *, deep: bool = False) -> Files:
    """The files of a pattern; of a folder those of this ending (`deep`: also in its folders).

    Raises:
        FileNotFoundError: there are none, or some are missing and `?missing=allow` is not said.
        ValueError: braces that name too many.
    """
    pattern, found, missing = argument.pattern, [], []
    what = buckets.kind(pattern)
    if what == "directory":
        found = _below(pattern, ending, deep)
    elif what == "file":
        found = [pattern]
    else:
        is_file = _looker(pattern)
        for part in _expand(pattern, form):
            if any(sign in part for sign in "*?[") and not buckets.exists(part):
                found += [path for path in buckets.glob(part) if is_file(path)]
            else:
                (found if is_file(part) else missing).append(part)
    if found != [pattern]:  # a file alone is not the others' promise
        missing += _promised(found)
    if not found:
        near = official.beside(pattern) if missing == [pattern] else ""
        raise FileNotFoundError(
            f"{form}:{pattern}: no such file, no *{ending} in such a folder, and no match{near}"
        )
    if missing and argument.options.get("missing") != "allow":
        more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
        raise FileNotFoundError(
            f"{form}:{pattern}: {len(missing):,} of {len(found) + len(missing):,} files are not"
            f" there: {', '.join(missing[:_NAMED])}{more}. Bring them back, or read the others"
            f" only, with {form}:{pattern}?missing=allow"
        )
    return Files(found, missing)


def folder_of(pattern: str) -> str:
    """The folder that all files of a pattern are below, whichever of them are there."""
    if buckets.isdir(pattern):
        return pattern
    return os.path.dirname(re.split(r"[*?\[{]", pattern)[0]) or os.curdir


def refuse_packed(path: str, start: bytes, why: str = "the records of it cannot be found") -> None:
    """Refuses a file whose first bytes say that it is compressed, or text of two-byte characters.

    Raises:
        official.WrongFile: with what it is, and what to do.
    """
    for magic, (name, command) in _PACKED.items():
        if start.startswith(magic):
            raise official.WrongFile(
                f"{path} is compressed ({name}), so {why} without reading all before them: unpack"
                f" it once ({command})"
            )


def refuse_wide(path: str, start: bytes) -> None:
    """Refuses text of two-byte characters, with a byte order mark or a first letter of ASCII.

    Raises:
        official.WrongFile: the first two bytes say so.
    """
    if start.startswith(_WIDE) or b"\0" in start[:2]:
        raise official.WrongFile(f"{path} is UTF-16; save it as UTF-8")


def _below(folder: str, ending: str, deep: bool) -> list[str]:
    if not deep:
        return buckets.glob(os.path.join(glob.escape(folder), f"*{ending}"))
    return [path for path in buckets.below(folder) if path.endswith(ending)]


def _looker(pattern: str) -> Callable[[str], bool]:
    """Says whether a path is a file; in a bucket its folder is listed, once, in place of asking."""
    if not buckets.holds(pattern):
        return os.path.isfile
    listed: dict[str, set[str]] = {}

    def is_file(path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in listed:
            try:
                listed[folder] = set(buckets.names(folder)[0])
            except FileNotFoundError:
                listed[folder] = set()
        return name in listed[folder]

    return is_file


def _expand(pattern: str, form: str) -> Iterator[str]:
    """The pattern once for each thing that its braces stand for, from left to right."""
    count = 1
    for match in _BRACES.finditer(pattern):
        if match["words"] is None:
            count *= max(0, int(match["last"]) - int(match["first"]) + 1)
        else:
            count *= match["words"].count(",") + 1
    if not 0 < count <= _MOST:
        raise ValueError(f"{form}:{pattern} names {count:,} files; possible: 1 to {_MOST:,}")
    yield from _expanded(pattern)


def _expanded(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    words: Sequence[str]
    if match["words"] is None:
        first, last = match["first"], match["last"]
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        words = [f"{k:0{width}d}" for k in range(int(first), int(last) + 1)]
    else:
        words = match["words"].split(",")
    for word in words:
        for rest in _expanded(pattern[match.end() :]):
            yield f"{pattern[: match.start()]}{word}{rest}"


def _promised(found: Sequence[str]) -> list[str]:
    """Files that are not there although the number behind `-of-` in others' names says so."""
    there: dict[tuple[str, str, str], set[int]] = {}
    for path in found:
        if match := _NUMBERED.search(path):
            there.setdefault((path[: match.start()], match[2], match[3]), set()).add(int(match[1]))
    return [
        f"{stem}-{k:05d}-of-{count}{ending}"
        for (stem, count, ending), numbers in there.items()
        if len(numbers) < int(count) <= _MOST
        for k in range(int(count))
        if k not in numbers
    ]
