"""Sources by reference: `stream:NAME` is what the stream NAME reads, `rest:NAME` what that leaves.

    c.streams.text.source = "stream:pairs"
    c.evaluate.evaluators.retrieval = dict(source="rest:pairs", ...)

So a config is told once which files are meant, `--config.streams.pairs.source='jsonl:FILE[:90%]'`,
and an evaluator gets `jsonl:FILE[90%:]`. Of a source without such brackets nothing is left: then
its evaluators read what is trained on, and the log says so. The settings have the real sources.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import choices
from unified_fm.data.source import entries

_log = logging.getLogger(__name__)

_SAME, _REST = "stream:", "rest:"
_FIELDS = ("source", "train_source")
_FIRST = re.compile(r"(?P<all>.+)\[\s*:\s*(?P<end>\d+(\.\d+)?%?)(?P<by>\s+by\s+hash\(\w+\))?\s*\]")


def filled(given: Mapping[str, Any], place: str = "config") -> Mapping[str, Any]:
    """The config with the sources of other streams in their places.

    Args:
        given: of a config file, plain dicts.
        place: what messages call it.

    Raises:
        ValueError: no such stream, or one that is itself told by another.
    """
    streams, evaluate = given.get("streams"), given.get("evaluate")
    if not isinstance(streams, Mapping):
        return given
    found = dict(given)
    found["streams"] = {
        name: _entry(entry, streams, f"{place}.streams.{name}") for name, entry in streams.items()
    }
    evaluators = evaluate.get("evaluators") if isinstance(evaluate, Mapping) else None
    if isinstance(evaluate, Mapping) and isinstance(evaluators, Mapping):
        where = f"{place}.evaluate.evaluators"
        each = {
            name: _entry(entry, streams, f"{where}.{name}") for name, entry in evaluators.items()
        }
        found["evaluate"] = {**evaluate, "evaluators": each}
    return found


def rest(source: str | Sequence[str]) -> str | list[str] | None:
    """What `[:90%]` behind a source leaves; None if there are no such brackets.

    Of several, joined or in a list, each must have its own: else some of what is left is trained
    on.
    """
    if not isinstance(source, str):
        each = [rest(part) for part in source]
        return None if None in each else [part for part in each if isinstance(part, str)]
    left = []
    for part in entries([source])[0]:
        match = _FIRST.fullmatch(part)
        if match is None:
            return None
        left.append(f"{match['all']}[{match['end']}:{match['by'] or ''}]")
    return "+".join(left)


def _entry(entry: Any, streams: Mapping[str, Any], where: str) -> Any:
    if not isinstance(entry, Mapping):
        return entry  # refused by its type
    changed = {
        field: _meant(entry[field], streams, f"{where}.{field}")
        for field in _FIELDS
        if isinstance(entry.get(field), str)
    }
    return {**entry, **changed} if changed else entry


def _meant(source: str, streams: Mapping[str, Any], where: str) -> Any:
    kind = next((kind for kind in (_SAME, _REST) if source.startswith(kind)), None)
    if kind is None:
        return source
    name = source.removeprefix(kind)
    theirs = streams.get(name)
    if not isinstance(theirs, Mapping) or "source" not in theirs:
        raise ValueError(
            f"{where} is {source!r}: there is no stream {name!r}; {choices.possible(name, streams)}"
        )
    found = theirs["source"]
    if isinstance(found, str) and found.startswith((_SAME, _REST)):
        raise ValueError(f"{where} is {source!r}, and the source of {name!r} is itself {found!r}")
    if kind == _SAME:
        return found
    left = rest(found)
    if left is None:
        _log.warning(
            "%s reads what the stream %r is trained on: nothing is held out. %s[:90%%] in the"
            " stream leaves a tenth for it",
            *(where, name, found),
        )
    return left or found
