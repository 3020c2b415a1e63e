"""Annotation files as others publish them: opened strictly, refused in words, never executed.

A message names the file, the place in it, what was found and what is possible.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unified_fm import buckets, choices
from unified_fm.data.skips import Skip

_PICKLES = (".p", ".pkl", ".pickle", ".pt", ".pth", ".joblib")
_SHOWN = 60  # characters of a value in a message


class WrongFile(ValueError):
    """A file that is not what it is read as."""


class Argument(NamedTuple):
    """What stands behind the colon of a source: `FILE[:PART][@IMAGES]`.

    Attributes:
        file: a file or a folder, as `buckets.path` has it.
        part: split, or another file; "" where there is none.
        images: the folder that image paths are below; None where none is given.
    """

    file: Any
    part: str
    images: Any


def argument(text: str, what: str) -> Argument:
    """Takes `FILE[:PART][@IMAGES]` apart; `what` is the source's prefix, for messages.

    Raises:
        FileNotFoundError: no such file, or no such folder of images.
    """
    path, at, root = text.rpartition("@")
    if not at or buckets.exists(text):
        path, root = text, ""
    elif not buckets.isdir(root):
        raise FileNotFoundError(f"{what}:{text}: {root!r} after the @ is no folder")
    file, part = buckets.cut(path)
    if buckets.exists(path):
        file, part = path, ""
    refuse_pickle(file)
    if not buckets.exists(file):
        raise FileNotFoundError(f"{what}:{text}: there is no {file!r}{beside(file)}")
    return Argument(buckets.path(file), part, buckets.path(root) if root else None)


def refuse_pickle(path: str | os.PathLike, instead: str = "the same data as JSON") -> None:
    """Refuses what can only be read by running it.

    Raises:
        WrongFile: by the ending of the name.
    """
    if os.fspath(path).lower().endswith(_PICKLES):
        raise WrongFile(
            f"{os.fspath(path)} is a pickle: to read it is to run what somebody has put into it,"
            f" so it is not opened. Give {instead} in its place"
        )


def load_json(
    path: str | os.PathLike, *, instead: str = "the same data as JSON", hook: Any = None
) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        instead: what to give in place of a pickle, for the message.
        hook: applied to each object while it is read (`object_hook` of `json.load`), so that large
            files are small in memory.

    Raises:
        WrongFile: a pickle, or no JSON; the message has the line.
        FileNotFoundError: no such file; the message has the nearest name beside it.
    """
    refuse_pickle(path, instead)
    try:
        return json.loads(content(path), object_hook=hook)
    except json.JSONDecodeError as error:
        lines = " It has one object per line: name it .jsonl" if error.msg == "Extra data" else ""
        raise WrongFile(f"{path}, line {error.lineno}: no JSON: {error.msg}.{lines}") from error
    except RecursionError as error:
        raise WrongFile(f"{path} is JSON of too many levels") from error


def load_lines(path: str | os.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a file with one JSON object per line; blank lines are none.

    Raises:
        WrongFile, FileNotFoundError: as `load_json`.
    """
    refuse_pickle(path)
    for number, line in enumerate(content(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WrongFile(f"{path}, line {number}: no JSON: {error}") from error
        if not isinstance(record, dict):
            raise WrongFile(f"{path}, line {number}: {shown(record)} is no object")
        yield number, record


def content(path: str | os.PathLike) -> str:
    """A file of UTF-8 text, whole; a BOM is no character of it.

    Raises:
        WrongFile: a folder, or other bytes.
        FileNotFoundError: no such file; the message has the nearest name beside it.
    """
    try:
        return decoded(buckets.read(path), path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {os.fspath(path)!r}{beside(path)}") from error
    except IsADirectoryError as error:
        raise WrongFile(f"{os.fspath(path)} is a folder; a file is needed") from error


def decoded(data: bytes, where: Any) -> str:
    """Bytes of UTF-8 as text; a BOM is no character of it. Raises WrongFile: they are none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongFile(f"{where} is not UTF-8: byte {error.start:,} is {error.reason}") from error


def is_lines(path: str | os.PathLike) -> bool:
    """Whether a file is JSON with one object per line, whatever its name ends in."""
    refuse_pickle(path)
    first, _, rest = content(path).lstrip().partition("\n")
    named = os.fspath(path).endswith(".jsonl")
    return named or (first.startswith("{") and bool(rest.strip()) and _whole(first))


def array(found: Any, path: str | os.PathLike, key: str = "") -> list[dict[str, Any]]:
    """The list of objects that a JSON file is, or has under a key.

    Raises:
        WrongFile: it is something else; the message has the keys that there are.
    """
    if key:
        if not isinstance(found, Mapping) or key not in found:
            keys = list(found) if isinstance(found, Mapping) else [type(found).__name__]
            raise WrongFile(f"{path} has no {key!r}; {choices.possible(key, map(str, keys))}")
        found = found[key]
    what = f"{path}: {key or 'the file'}"
    if not isinstance(found, list):
        raise WrongFile(f"{what} is no array but of type {type(found).__name__}")
    for place, record in enumerate(found):
        if not isinstance(record, dict):
            raise WrongFile(f"{what}[{place}] is {shown(record)}, no object")
    return found


def field(record: Mapping[str, Any], name: str, kind: Any, where: Callable[[], str] | str) -> Any:
    """A field of a record, of that type (or one of a tuple of types).

    Raises:
        WrongFile: it is missing or of another type; the message has the fields that there are.
    """
    place = where if isinstance(where, str) else where()
    if name not in record:
        raise WrongFile(f"{place} has no {name!r}; {choices.possible(name, map(str, record))}")
    value = record[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        said = " or ".join(each.__name__ for each in kinds)
        raise WrongFile(f"{place}: {name} is {shown(value)}; {said} is needed")
    return value


def texts(value: Any, where: str) -> list[str]:
    """A string or a list of strings, as a list.

    Raises:
        WrongFile: something else.
    """
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise WrongFile(f"{where}: {shown(value)} is neither a string nor a list of strings")
    return found


def no_split(found: str, possible: Sequence[str], where: Any) -> WrongFile:
    """The error that a file has no such split."""
    return WrongFile(f"{where} has no split {found!r}; {choices.possible(found, possible)}")


def shown(value: Any) -> str:
    """A value in a message, cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class Images:
    """The folder that the image paths of an annotation file are below.

    Args:
        root: the folder; None: that of the file.
        file: of the annotations.
    """

    def __init__(self, root: Any, file: Any):
        self.root = root or (file if file.is_dir() else file.parent)
        self._given = root is not None

    def find(self, *names: str) -> str:
        """The path of the first name that is there.

        Where a folder was given, a name is also tried without its first part (`coco/`), which
        published files have before the paths of the data set itself.

        Raises:
            Skip: none is there, with what was tried; or a name leaves the folder.
        """
        tried = list(names)
        if self._given:
            tried += [rest for name in names if (rest := name.partition("/")[2])]
        for name in tried:
            path = self.inside(name)
            if buckets.isfile(path):
                return path
        listed = ", ".join(os.path.join(self.root, name) for name in tried)
        raise Skip("image is not there", f"tried {listed}")

    def inside(self, name: str) -> str:
        """The path of a name below the folder, whether it is there or not.

        Raises:
            Skip: it leaves the folder.
        """
        path = buckets.inside(self.root, name)
        if path is None or "\0" in name:
            raise Skip("image path outside the data folder", name[:200])
        return path


def _whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def beside(path: str | os.PathLike) -> str:
    """What there is beside a path that is not there, for a message."""
    folder, name = os.path.split(buckets.absolute(path))
    if not name or folder.endswith(":"):  # a bucket: its neighbours are other people's
        return ""
    if not buckets.isdir(folder):
        return f" (nor the folder {folder})"
    near = choices.nearest(name, sorted(itertools.chain(*buckets.names(folder))))
    return f"; did you mean {near!r}?" if near else ""
