"""What a run has learnt from: its sources by name, with hashes and licences, without folders."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from unified_fm import plugins
from unified_fm.data import identity
from unified_fm.data.source import open_source
from unified_fm.demo import packages, recipes

NOT_HERE = "its files are not here"
_PART = re.compile(r"few:[^:]+:")  # of a source; what follows is the source itself
_JOIN = re.compile(r"\+(?=[A-Za-z_][\w.]*:)")
_FOLDERS = re.compile(r"(?:(?<=[:@+=,\s])|^)/(?!/)(?:[^/:@+=,]+/)*(?=[^/:@+=,])")
_OF_FILES = ("jsonl", "folder", "array_record")  # what these read has the name of its file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Used:
    """One source of one stream.

    Attributes:
        stream: of the run.
        source: as the config has it, absolute paths without their folders.
        names: of the data sets in it.
        records: how many there are; None: its files are not here.
        hash: of some of the records (`data.identity`); "": its files are not here.
        licences: of the packages that it is made from; empty: the library does not know.
    """

    stream: str
    source: str
    names: tuple[str, ...]
    records: int | None
    hash: str
    licences: tuple[str, ...]


def used(config: Mapping[str, Any]) -> list[Used]:
    """The sources of a run's streams, opened where they are here.

    Args:
        config: of a run; {} of what has none. Only sources of the library are opened.
    """
    found = []
    for stream, entry in streams(config):
        given = entry.get("source")
        spec = "+".join(map(str, given)) if isinstance(given, list | tuple) else str(given or "")
        if not spec:
            continue
        records, digest = _looked_at(spec)
        found.append(
            Used(
                stream=stream,
                source=without_folders(spec),
                names=tuple(dict.fromkeys(map(_name, _parts(spec)))),
                records=records,
                hash=digest,
                licences=tuple(dict.fromkeys(_licences(spec))),
            )
        )
    return found


def streams(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, entry) of the streams of a config, which nobody may have checked."""
    found = config.get("streams")
    entries = found.items() if isinstance(found, Mapping) else ()
    return [(str(name), entry) for name, entry in entries if isinstance(entry, Mapping)]


def without_folders(text: str) -> str:
    """ "jsonl:/home/me/pairs.jsonl" as "jsonl:pairs.jsonl"; relative paths stay as they are.

    Args:
        text: a source, a path, or a command line.
    """
    return _FOLDERS.sub("", text)


def _parts(spec: str) -> list[str]:
    return [_PART.sub("", part) for part in _JOIN.split(spec)]


def _name(part: str) -> str:
    prefix, _, argument = part.partition(":")
    if prefix == "demo":
        return f"demo-{_demo_kind(argument)}"
    if prefix == "tfds":
        return argument.partition(":")[0]
    return PurePath(argument).stem if prefix in _OF_FILES else prefix


def _demo_kind(argument: str) -> str:
    return re.split("[/?@]", argument, maxsplit=1)[0]


def _looked_at(spec: str) -> tuple[int | None, str]:
    known = plugins.names("data.sources")
    if any(part.partition(":")[0] not in known for part in _parts(spec)):
        return None, ""
    try:
        opened = open_source(spec)
        return len(opened), identity.of_source(opened)
    except (ValueError, OSError):
        return None, ""


def _licences(spec: str) -> Iterator[str]:
    """ "PACKAGE VERSION (LICENCE)" of all that parts of the demo corpus are made from."""
    for part in _parts(spec):
        prefix, _, argument = part.partition(":")
        kind = _demo_kind(argument)
        if prefix != "demo":
            continue
        # Scenes are composed of the objects' drawings as they are read.
        for name in _packages("objects" if kind == "scenes" else kind):
            package = packages.PACKAGES[name]
            yield f"{name} {package.version} ({package.licence})"


def _packages(part: str) -> Iterator[str]:
    if part in recipes.PARTS:
        for group in recipes.PARTS[part].sources:
            yield from group
        for before in recipes.PARTS[part].after:
            yield from _packages(before)
