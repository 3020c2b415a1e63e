"""What there is to set, for people: every key with its default and the line that is beside it."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from unified_fm.config import records, values
from unified_fm.config.records import Record
from unified_fm.config.settings import Init, Settings, Stream, Teacher
from unified_fm.config.weights import Weight

_ENTRIES: Mapping[str, tuple[type[Record], str]] = {  # with what stands between
    "streams": (Stream, "NAME."),
    "streams.NAME.objectives": (Weight, "NAME.weight."),
    "teachers": (Teacher, "NAME."),
    "init": (Init, ""),
}
_OF_PLUGINS = {
    "model": ("model.OPTION", "of the model, see models/NAME.py"),
    "merge": ("merge.OPTION", "of the merge, see optim/merge/NAME.py"),
    "streams": ("streams.NAME.OPTION", "of the pipeline, see data/pipelines/NAME.py"),
    "evaluate.evaluators": (
        "evaluate.evaluators.NAME.OPTION",
        "of the evaluator, see evaluators/NAME.py",
    ),
}
_OVERRIDE = """\
--config.KEY=VALUE sets one key, whether the config file spells it out or not; the order does not
matter. VALUE is read as what the key holds: a number, a list like [1,2], a dict like {'a': 1}. None
takes an entry out. `unified-fm show config --config=...` prints what comes of it.
    --config.optimizer.lr=1e-3  --config.streams.text.batch_size=32  --config.streams.image=None
    --config.streams.NEW.pipeline=text  --config.evaluate.evaluators.NEW.name=retrieval
"""


def text(flags: Mapping[str, tuple[Any, str]]) -> str:
    """The help of the command.

    Args:
        flags: {name: its default and what it is}.
    """
    lines = ["Trains a config, or evaluates what was trained.", "", "Flags:"]
    shown = [(f"--{name}", default, about) for name, (default, about) in flags.items()]
    lines += _table(shown)
    return "\n".join([*lines, "", keys()])


def keys() -> str:
    """How a key is set on the command line, and every key."""
    return "\n".join([_OVERRIDE, "Keys, and their defaults:", *_table(_keys(Settings))])


def _keys(record: type[Record], place: str = "") -> Iterator[tuple[str, Any, str]]:
    """(key, default, what it is) of a record and what is inside it; "" for a default: none."""
    defaults, kinds = records.defaults(record), records.kinds(record)
    for field in dataclasses.fields(record):
        key, default = f"{place}{field.name}", defaults[field.name]
        if field.name == record.rest:
            continue
        if isinstance(default, Record):
            yield key, "", typing.cast(str, type(default).__doc__)
            yield from _keys(type(default), f"{key}.")
            continue
        about = field.metadata["about"]
        limits = f", {about.limits}" if about.limits else ""
        shown = "" if default is dataclasses.MISSING else default
        yield key, shown, f"{about.text} [{values.describe(kinds[field.name])}{limits}]"
        if key in _ENTRIES:
            inner, named = _ENTRIES[key]
            yield from _keys(inner, f"{key}.{named}")
        if key in _OF_PLUGINS:
            key, about = _OF_PLUGINS[key]
            yield key, "", about


def _table(rows: Any) -> list[str]:
    named = [
        (key if default == "" else f"{key}={default!r}", about) for key, default, about in rows
    ]
    width = min(40, max(len(name) for name, _ in named))
    return [f"  {name:<{width}}  {about}" for name, about in named]
